//! The part of the outbox that is on disk: a queue of messages in one temporary file without a name.
//!
//! The file is of use only together with the trainer's state, which is gone when the agent is; so nothing is left behind,
//! however the agent ends. It lies in TMPDIR. Writing goes to the page cache, so it is done where the agent stands.

use nix::fcntl::{FallocateFlags, fallocate};
use prost::Message;
use proto::v1::WorkerMessage;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Hours of steps, for a report of a few kilobytes.
const BYTES_MAX: u64 = 1 << 30;

/// How much of what was read is given back at a time.
const FREED_AT_ONCE: u64 = 16 << 20;
/// Makes a hole where bytes were; those after it keep their places.
const FREE: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

/// A queue on disk. It holds no file while it is empty.
pub struct Spool {
    file: Option<File>,
    bytes_max: u64,
    read: u64,
    written: u64,
    /// So much of what was read takes no more room on the disk.
    freed: u64,
    open: fn() -> io::Result<File>,
}

impl Default for Spool {
    fn default() -> Self {
        Self { file: None, bytes_max: BYTES_MAX, read: 0, written: 0, freed: 0, open: tempfile::tempfile }
    }
}

impl Spool {
    /// Nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.read == self.written
    }

    /// As much is waiting as may be.
    pub fn is_full(&self) -> bool {
        self.written - self.read >= self.bytes_max
    }

    /// Adds a message. It is whole in the file, or not in it at all.
    pub fn append(&mut self, message: &WorkerMessage) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert((self.open)()?),
        };
        let frame = message.encode_length_delimited_to_vec();
        // A write that was cut off is overwritten by the next one.
        file.write_all_at(&frame, self.written)?;
        self.written += frame.len() as u64;
        Ok(())
    }

    /// Takes the oldest message.
    pub fn next(&mut self) -> io::Result<Option<WorkerMessage>> {
        if self.is_empty() {
            return Ok(None);
        }
        let file = self.file.as_ref().ok_or_else(|| io::Error::other("the spool has lost its file"))?;
        let corrupt = |error: prost::DecodeError| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut head = [0; 10];
        let head_bytes = head.len().min(usize::try_from(self.written - self.read).unwrap_or(usize::MAX));
        file.read_exact_at(&mut head[..head_bytes], self.read)?;
        let length = prost::decode_length_delimiter(&head[..head_bytes]).map_err(corrupt)?;
        let start = self.read + prost::length_delimiter_len(length) as u64;
        let mut body = vec![0; length];
        file.read_exact_at(&mut body, start)?;
        let message = WorkerMessage::decode(body.as_slice()).map_err(corrupt)?;
        self.read = start + length as u64;
        if self.is_empty() {
            // The disk gets its room back.
            (self.file, self.read, self.written, self.freed) = (None, 0, 0, 0);
        } else if self.read - self.freed >= FREED_AT_ONCE {
            // Also of what was read. A file system that cannot do that keeps it until the queue is empty.
            if let Err(error) = fallocate(file, FREE, self.freed as i64, (self.read - self.freed) as i64) {
                tracing::debug!(%error, "what was read cannot be taken out of the file");
            }
            self.freed = self.read;
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
impl Spool {
    /// One that holds so many bytes at most.
    pub fn with_room(bytes_max: u64) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// One whose file takes nothing.
    pub fn on_a_full_disk() -> Self {
        Self { open: || File::options().write(true).read(true).open("/dev/full"), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Progress, worker_message::Kind};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_was_read_makes_room() {
        let large = "x".repeat(1 << 20);
        let message = |step| WorkerMessage {
            kind: Some(Kind::Progress(Progress { run: large.clone(), step, ..Progress::default() })),
        };
        let mut spool = Spool::with_room(40 << 20);
        let mut step = 0;
        while !spool.is_full() {
            step += 1;
            spool.append(&message(step)).unwrap();
        }
        let on_disk = |spool: &Spool| spool.file.as_ref().unwrap().metadata().unwrap().blocks() * 512;
        let full = on_disk(&spool);
        for expected in 1..=step {
            assert_eq!(spool.next().unwrap(), Some(message(expected)));
            assert!(!spool.is_full(), "there is room again");
            // As many again: the file stays as small as it was, though its end moves on.
            spool.append(&message(step + expected)).unwrap();
        }
        assert!(on_disk(&spool) <= full + 2 * FREED_AT_ONCE, "{} of {full}", on_disk(&spool));
        assert!((1..=step).all(|expected| spool.next().unwrap() == Some(message(step + expected))));
        assert!(spool.is_empty() && spool.file.is_none());
    }
}
