//! The part of the outbox that is on disk: a queue of messages in one temporary file without a name.
//!
//! The file is of use only together with the trainer's state, which is gone when the agent is; so nothing is left behind,
//! however the agent ends. It lies in TMPDIR. Writing goes to the page cache, so it is done where the agent stands.

use prost::Message;
use proto::v1::WorkerMessage;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Hours of steps, for a report of a few kilobytes.
const BYTES_MAX: u64 = 1 << 30;

/// A queue on disk. It holds no file while it is empty.
pub struct Spool {
    file: Option<File>,
    bytes_max: u64,
    read: u64,
    written: u64,
    open: fn() -> io::Result<File>,
}

impl Default for Spool {
    fn default() -> Self {
        Self { file: None, bytes_max: BYTES_MAX, read: 0, written: 0, open: tempfile::tempfile }
    }
}

impl Spool {
    /// Nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.read == self.written
    }

    /// The file is as large as it may be.
    pub fn is_full(&self) -> bool {
        self.written >= self.bytes_max
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
            (self.file, self.read, self.written) = (None, 0, 0);
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
