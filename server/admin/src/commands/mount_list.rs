//! `weft mount list`: what of Weft is mounted on this machine.

use serde_json::json;

use crate::error::AdminError;
use crate::mounts::{self, Client, Servers};
use crate::output::Align::{Left, Right};
use crate::output::{Report, Table};

pub(super) fn run() -> Result<Report, AdminError> {
    let mut table = Table::new(&[
        ("SOURCE", Left),
        ("MOUNT POINT", Left),
        ("TRANSPORT", Left),
        ("SERVERS", Left),
        ("PID", Right),
        ("CLIENT-CORE", Right),
        ("OPTIONS", Left),
    ]);
    let mut rows = Vec::new();
    for mount in mounts::all()?.into_iter().filter(|mount| mount.is_weft) {
        let Client { supervisor, core } = mounts::client(&mount);
        let transport = supervisor.and_then(mounts::client_transport);
        let servers = core.and_then(mounts::client_servers);
        let shown = |pid: Option<u32>| pid.map_or("-".to_owned(), |pid| pid.to_string());
        rows.push(json!({
            "source": mount.source,
            "mount_point": mount.mount_point.to_string_lossy(),
            "transport": transport,
            "servers": servers.map(|servers| json!({ "unix": servers.unix, "tcp": servers.tcp })),
            "pid": supervisor.or(core),
            "supervisor_pid": supervisor,
            "client_core_pid": core,
            "options": mount.options,
        }));
        table.row([
            mount.source,
            mount.mount_point.to_string_lossy().into_owned(),
            transport.unwrap_or_else(|| "-".to_owned()),
            servers.map_or("-", Servers::shown).to_owned(),
            shown(supervisor),
            shown(core),
            mount.options,
        ]);
    }
    let text = match rows.is_empty() {
        true => {
            "no Weft file system is mounted here; mount one with: mount -t weft HOST:/ MOUNTPOINT\n"
                .to_owned()
        }
        false => table.render(),
    };
    Ok(Report::done(text, json!({ "mounts": rows })))
}
