//! Finding, watching and shutting the connections of one Gloo group, and of nothing else in the process.
//!
//! Gloo has no abort, but a collective whose connection is shut fails at once (or is given up: native/waits.h). Which sockets are the group's? Each group
//! has a device of its own, with one epoll set that holds its listener and its connections, and the listener's address
//! is what this member publishes in its store. So: of the process's epoll sets, the one that holds a listener whose
//! address was published is the group's, and the connected sockets in it are the group's connections. The listener
//! itself must stay open: gloo ends the process when its accept fails.
//!
//! A socket is remembered by inode beside the descriptor, since descriptors are reused.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One connection of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socket {
    descriptor: RawFd,
    inode: u64,
}

impl Socket {
    /// The peer is gone: it closed its end, or gloo closed ours for an error.
    pub(super) fn is_broken(&self) -> bool {
        if inode(self.descriptor) != Some(self.inode) {
            return true;
        }
        let mut watched = libc::pollfd { fd: self.descriptor, events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one entry, as it says.
        let found = unsafe { libc::poll(&raw mut watched, 1, 0) };
        // POLLERR, POLLHUP and POLLNVAL are answered unasked.
        found > 0
    }

    /// Ends the connection, unless the descriptor stands for something else by now.
    pub(super) fn shut(&self) {
        // A duplicate cannot be closed and reused by another thread between the check and the shutdown.
        // SAFETY: plain system calls on numbers; the duplicate is ours.
        let copy = unsafe { libc::fcntl(self.descriptor, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return; // closed long ago
        }
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        if inode(copy.as_raw_fd()) == Some(self.inode) {
            unsafe { libc::shutdown(copy.as_raw_fd(), libc::SHUT_RDWR) };
        }
    }
}

/// The connections of the device whose listener's address is somewhere in `published`.
pub(super) fn of_device(published: &[Vec<u8>]) -> io::Result<Vec<Socket>> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let Some(descriptor) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        // Descriptors of other threads may vanish while we look: skip what cannot be read.
        match fs::read_link(format!("/proc/self/fd/{descriptor}")) {
            Ok(target) if target.as_os_str() == "anon_inode:[eventpoll]" => {}
            _ => continue,
        }
        let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")) else { continue };
        let sockets: Vec<Socket> =
            watched(&info).filter(|socket| inode(socket.descriptor) == Some(socket.inode)).collect();
        let is_ours = |socket: &Socket| {
            accepts(socket.descriptor) == Some(true)
                && local_address(socket.descriptor)
                    .is_some_and(|address| published.iter().any(|p| contains(p, &address)))
        };
        if sockets.iter().any(is_ours) {
            return Ok(sockets.into_iter().filter(|socket| is_connection(socket.descriptor)).collect());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no epoll set of this process holds the listener that was published"))
}

/// What an epoll set watches, from its /proc fdinfo: lines of `tfd: 12 events: … ino:1a2b sdev:8` (inode in hex).
fn watched(info: &str) -> impl Iterator<Item = Socket> + '_ {
    info.lines().filter(|line| line.starts_with("tfd:")).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let descriptor = words.get(1)?.parse().ok()?;
        let inode = words.iter().find_map(|word| word.strip_prefix("ino:"))?;
        Some(Socket { descriptor, inode: u64::from_str_radix(inode, 16).ok()? })
    })
}

/// The inode behind a descriptor, if it is a socket.
fn inode(descriptor: RawFd) -> Option<u64> {
    // SAFETY: fstat fills the zeroed struct or fails.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    let found = unsafe { libc::fstat(descriptor, &mut status) } == 0;
    (found && status.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(status.st_ino)
}

/// Whether a socket is a listener; None if it is no socket.
fn accepts(descriptor: RawFd) -> Option<bool> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and size describe each other.
    let outcome = unsafe {
        libc::getsockopt(descriptor, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, (&raw mut value).cast(), &mut size)
    };
    (outcome == 0).then_some(value != 0)
}

fn is_connection(descriptor: RawFd) -> bool {
    accepts(descriptor) == Some(false) && address(descriptor, libc::getpeername).is_some()
}

fn local_address(descriptor: RawFd) -> Option<Vec<u8>> {
    address(descriptor, libc::getsockname)
}

type AddressCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

/// A socket's internet address as the kernel writes it: family, port and address, without padding and scope. Gloo
/// publishes the same bytes.
fn address(descriptor: RawFd, call: AddressCall) -> Option<Vec<u8>> {
    // SAFETY: the storage is as large as the size says.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    if unsafe { call(descriptor, (&raw mut storage).cast(), &mut size) } != 0 {
        return None;
    }
    let significant = match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => 8,
        libc::AF_INET6 => 24,
        _ => return None,
    };
    // SAFETY: sockaddr_storage is larger than either.
    Some(unsafe { std::slice::from_raw_parts((&raw const storage).cast::<u8>(), significant) }.to_vec())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
