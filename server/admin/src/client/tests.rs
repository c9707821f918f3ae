use super::*;
use crate::testing::{CLUSTER, Manner, serve};

fn session(timeout_ms: u64) -> Session {
    Session::new(ClusterId::default(), Duration::from_millis(timeout_ms))
}

fn open(manner: Manner, timeout_ms: u64) -> Result<Connection, ClientError> {
    let (address, _) = serve(manner);
    Connection::open(&address, &session(timeout_ms), ShardId(0))
}

#[test]
fn a_good_server_is_understood() {
    let mut connection = open(Manner::Good, 5000).expect("hello");
    assert_eq!((connection.welcome().cluster, connection.welcome().epoch), (CLUSTER, 77));
    assert_eq!(connection.cluster_map().expect("map").targets.len(), 2);
    assert_eq!(connection.target_list().expect("list")[0].id, TargetId(1));
    let reply = connection.meta(&MetaRequest::GetAttr { ino: Ino::ROOT }).expect("attr");
    assert!(matches!(reply, MetaReply::Attr(attr) if attr.ino == Ino::ROOT));
    connection.goodbye();
}

#[test]
fn pages_of_a_chunk_list_are_joined() {
    let mut connection = open(Manner::Good, 5000).expect("hello");
    let chunks = connection.chunks(TargetId(1), Ino(5)).expect("chunks");
    assert_eq!(chunks.iter().map(|chunk| chunk.index.0).collect::<Vec<_>>(), [0, 4]);
}

#[test]
fn misbehaviour_is_an_error_of_its_kind() {
    for manner in [Manner::Garbage, Manner::OtherRequest] {
        let error = open(manner, 5000).expect_err("no server of ours");
        assert!(matches!(error.kind, ClientErrorKind::Garbage(_)), "{manner:?}: {error}");
        assert!(error.next().contains("Weft server"), "{}", error.next());
    }
    assert_eq!(open(Manner::HangUp, 5000).expect_err("closed").kind, ClientErrorKind::Closed);
}

#[test]
fn nobody_waits_longer_than_the_timeout() {
    for manner in [Manner::Silent, Manner::Trickle] {
        let start = clock::now();
        let error = open(manner, 150).expect_err("no answer");
        assert_eq!(error.kind, ClientErrorKind::Timeout, "{manner:?}");
        assert!(clock::now() - start < Duration::from_secs(3), "{manner:?}");
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    assert!(open(Manner::BusyOnce, 5000).is_ok());
    let error = open(Manner::BusyOnce, 10).expect_err("too short to ask again");
    assert_eq!(error.kind, ClientErrorKind::Refused(Status::Busy));
}

#[test]
fn blocks_that_do_not_match_are_noticed() {
    let range = ChunkRange {
        chunk: weft_wire::ChunkId { ino: Ino::ROOT, index: ChunkIndex(0) },
        offset: 0,
        bytes: 4096,
    };
    let mut good = open(Manner::Good, 5000).expect("hello");
    assert_eq!(good.read(TargetId(1), range).expect("read"), 1);
    let mut bad = open(Manner::BadBlocks, 5000).expect("hello");
    let error = bad.read(TargetId(1), range).expect_err("checksum");
    let is_checksum =
        matches!(error.kind, ClientErrorKind::Garbage(e) if e.kind == WireErrorKind::Checksum);
    assert!(is_checksum, "{error}");
}

#[test]
fn another_cluster_is_refused() {
    let (address, _) = serve(Manner::Good);
    let session = Session::new(ClusterId([1; 16]), Duration::from_secs(5));
    let error = Connection::open(&address, &session, ShardId(0)).expect_err("refused");
    assert_eq!(error.kind, ClientErrorKind::Refused(Status::WrongCluster));
    assert!(error.next().contains("--config"));
}

#[test]
fn no_server_and_no_address_say_what_to_do() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let error = Connection::open(&address, &session(1000), ShardId(0)).expect_err("nobody");
    assert_eq!(error.kind, ClientErrorKind::Connect);
    assert!(error.next().contains("weft-server running"));
    let error = Connection::open("no-port", &session(1000), ShardId(0)).expect_err("no address");
    assert_eq!(error.kind, ClientErrorKind::Resolve);
}
