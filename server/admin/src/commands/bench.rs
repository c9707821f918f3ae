//! `weft bench`: becomes `weft-load compare`, so that its table, its exit status and its interrupts are its own.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::BenchArgs;
use crate::error::AdminError;

const PROGRAM: &str = "weft-load";
/// Where `make install` puts it, seen from the folder of `weft`.
const INSTALLED: &str = "../libexec/weft/weft-load";

/// Comes back only with the reason why it could not start.
pub(super) fn run(args: &BenchArgs) -> AdminError {
    let place = std::env::current_exe().map(|exe| beside(&exe));
    let program = match place {
        Ok(Some(program)) => program,
        Ok(None) => {
            let next = "install it with make install, or build it with cargo build --release";
            return AdminError::new("weft bench", "weft-load is neither here nor installed", next);
        }
        Err(error) => return AdminError::new("find this program", error, "is /proc mounted?"),
    };
    let mut command = Command::new(&program);
    command.arg("compare").arg("--mount").arg(&args.mount).arg("--local").arg(&args.local);
    let error: io::Error = command.args(&args.options).exec();
    let what = format!("start {}", program.display());
    AdminError::new(what, error, "install the programs again with make install")
}

/// In the folder of `weft` (a build, or a package that keeps them together), or in libexec.
fn beside(exe: &Path) -> Option<PathBuf> {
    let folder = exe.parent()?;
    [folder.join(PROGRAM), folder.join(INSTALLED)].into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn looks_beside_itself_and_in_libexec() {
        let dir = tempfile::tempdir().expect("a folder");
        let exe = dir.path().join("bin/weft");
        let libexec = dir.path().join("libexec/weft");
        fs::create_dir_all(dir.path().join("bin")).expect("mkdir");
        fs::create_dir_all(&libexec).expect("mkdir");
        assert_eq!(beside(&exe), None);
        fs::write(libexec.join(PROGRAM), "").expect("write");
        let found = beside(&exe).expect("in libexec");
        assert_eq!(found.canonicalize().expect("there"), libexec.join(PROGRAM));
        fs::write(dir.path().join("bin").join(PROGRAM), "").expect("write");
        assert_eq!(beside(&exe), Some(dir.path().join("bin").join(PROGRAM)));
    }
}
