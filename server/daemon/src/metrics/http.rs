//! The HTTP endpoint: `GET /metrics`, for Prometheus and people. On a thread of its own, beside the shards.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Registry;

/// Connections served at once; others wait in the socket's queue.
const CONNS_MAX: usize = 16;
/// A peer has so long to send its request.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// A connection is closed after so long whatever it does.
const CONN_PATIENCE: Duration = Duration::from_secs(60);

/// Listens on `address` and answers until the process ends.
///
/// # Errors
/// It cannot listen there.
pub(crate) fn serve(address: &str, registry: Arc<Registry>) -> Result<(), String> {
    let fail = |error: std::io::Error| {
        format!("metrics = {address:?}: {error}; name a free HOST:PORT, or \"\" for none")
    };
    let listener = TcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let at: SocketAddr = listener.local_addr().map_err(fail)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || {
            if let Err(error) = runtime.block_on(accept(listener, registry)) {
                tracing::error!(%error, "no metrics any more");
            }
        })
        .map_err(fail)?;
    tracing::info!("metrics at http://{at}/metrics");
    Ok(())
}

async fn accept(listener: TcpListener, registry: Arc<Registry>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(tokio::sync::Semaphore::new(CONNS_MAX));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.map_err(std::io::Error::other)?;
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "metrics: a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            let answer = move |request| {
                let response = respond(&request, &registry);
                async { Ok::<_, Infallible>(response) }
            };
            let conn = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_PATIENCE)
                .serve_connection(TokioIo::new(socket), service_fn(answer));
            if let Ok(Err(error)) = tokio::time::timeout(CONN_PATIENCE, conn).await {
                tracing::debug!(%error, "metrics: a connection ended");
            }
            drop(permit);
        });
    }
}

fn respond(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, "text/plain; version=0.0.4", registry.render())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "see /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
