//! The coordinator's data folder: who may use it, and the small files in it that clients read.
//!
//! ```text
//! lock       held for as long as a coordinator runs on this folder
//! token      what every client must show (mode 0600)
//! endpoint   HOST:PORT of the running coordinator
//! trireme.db runs, commits, metrics
//! store/     checkpoints, unless `--store` names another place
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A data folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Neither `$XDG_DATA_HOME` nor `$HOME` is set.
    #[error("no data folder: neither XDG_DATA_HOME nor HOME is set; give one with --data-dir DIR")]
    NoHome,
    /// Another coordinator holds the lock.
    #[error(
        "the data folder {path} is in use by another coordinator{holder}; \
         stop that one first, or give this one its own folder with --data-dir DIR"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// " (process N)" where known.
        holder: String,
    },
    /// The file system refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, e.g. "cannot create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// `$XDG_DATA_HOME/trireme`, else `~/.local/share/trireme`.
pub fn default_path() -> Result<PathBuf, DataDirError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(base) = set("XDG_DATA_HOME") {
        return Ok(base.join("trireme"));
    }
    set("HOME").map(|home| home.join(".local/share/trireme")).ok_or(DataDirError::NoHome)
}

/// Where a data folder keeps the clients' token.
pub fn token_path(folder: &Path) -> PathBuf {
    folder.join("token")
}

/// Where a data folder keeps the address of its running coordinator.
pub fn endpoint_path(folder: &Path) -> PathBuf {
    folder.join("endpoint")
}

/// A data folder that this process alone may use, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the folder if need be, and locks it. An `endpoint` left by a coordinator that died is removed.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { action, path, source }
        };
        std::fs::create_dir_all(path).map_err(fail("cannot create the data folder", path))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(fail("cannot open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let known = lock.read_to_string(&mut text).is_ok() && text.trim().parse::<u32>().is_ok();
                let holder = if known { format!(" (process {})", text.trim()) } else { String::new() };
                return Err(DataDirError::InUse { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(fail("cannot lock", &lock_path)(source)),
        }
        let write_pid = || -> std::io::Result<()> {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        let mut write_pid = write_pid;
        write_pid().map_err(fail("cannot write", &lock_path))?;
        let folder = Self { path: path.to_owned(), _lock: lock };
        folder.remove_endpoint();
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run database's file.
    pub fn database_path(&self) -> PathBuf {
        self.path.join("trireme.db")
    }

    /// Where checkpoints go unless another place was named.
    pub fn default_store_path(&self) -> PathBuf {
        self.path.join("store")
    }

    /// The token that clients must show; made on first use, readable by the owner alone.
    pub fn token(&self) -> Result<String, DataDirError> {
        let path = token_path(&self.path);
        let fail = |action| {
            let path = path.clone();
            move |source| DataDirError::Io { action, path, source }
        };
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail("cannot read the token")(error)),
        }
        let token = types::Digest(rand::random()).to_string();
        write_atomically(&path, &format!("{token}\n"), 0o600).map_err(fail("cannot write the token"))?;
        Ok(token)
    }

    /// Tells clients of this machine where the coordinator listens.
    pub fn write_endpoint(&self, address: SocketAddr) -> Result<(), DataDirError> {
        let path = endpoint_path(&self.path);
        write_atomically(&path, &format!("{}\n", reachable(address)), 0o644).map_err(|source| DataDirError::Io {
            action: "cannot write",
            path,
            source,
        })
    }

    /// Nobody listens any more.
    pub fn remove_endpoint(&self) {
        // Nothing is lost if it stays: clients then name the address at which nobody answers.
        let _ = std::fs::remove_file(endpoint_path(&self.path));
    }
}

/// "Every address" is no address to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

fn write_atomically(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    move_into_place(&temporary, path)
}

/// Gives a file that is on the disk its name, durably.
pub fn move_into_place(temporary: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::rename(temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_and_keeps_its_token() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        let first = DataDir::open(&path).unwrap();
        let token = first.token().unwrap();
        assert_eq!(token.len(), 64);
        let mode = std::fs::metadata(token_path(&path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = DataDir::open(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert!(refused.contains("--data-dir"), "{refused}");
        drop(first);
        assert_eq!(DataDir::open(&path).unwrap().token().unwrap(), token);
    }

    #[test]
    fn the_endpoint_is_an_address_to_connect_to() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = DataDir::open(temporary.path()).unwrap();
        folder.write_endpoint("0.0.0.0:7117".parse().unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(endpoint_path(temporary.path())).unwrap(), "127.0.0.1:7117\n");
        folder.remove_endpoint();
        assert!(!endpoint_path(temporary.path()).exists());
    }
}
