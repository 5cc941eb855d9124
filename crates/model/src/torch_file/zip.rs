//! Zip archives whose files are stored as they are, which is how torch writes them.

use super::TRUNCATED;
use std::collections::BTreeMap;

const END: &[u8; 4] = b"PK\x05\x06";
const END_64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR_64: &[u8; 4] = b"PK\x06\x07";
const ENTRY: &[u8; 4] = b"PK\x01\x02";
const LOCAL: &[u8; 4] = b"PK\x03\x04";
/// The end record's own bytes, and the longest comment behind it.
const END_BYTES: usize = 22;
const COMMENT_MAX: usize = u16::MAX as usize;

/// An archive in memory.
pub struct Archive<'a> {
    files: BTreeMap<String, &'a [u8]>,
}

impl<'a> Archive<'a> {
    /// Reads the directory at the end, and finds every file.
    pub fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let from = bytes.len().saturating_sub(END_BYTES + COMMENT_MAX);
        let end = (from..=bytes.len().saturating_sub(END_BYTES)).rev().find(|at| bytes[*at..].starts_with(END));
        // The directory is the last thing in the archive: where it is not, something is missing.
        let end = end.ok_or(TRUNCATED)?;
        let (mut count, mut at) = (u64::from(short(bytes, end + 10)?), u64::from(word(bytes, end + 16)?));
        if let Some(locator) = end.checked_sub(20).filter(|locator| bytes[*locator..].starts_with(LOCATOR_64)) {
            let end_64 = place(long(bytes, locator + 8)?)?;
            if !bytes.get(end_64..).is_some_and(|rest| rest.starts_with(END_64)) {
                return Err(TRUNCATED.to_owned());
            }
            (count, at) = (long(bytes, end_64 + 32)?, long(bytes, end_64 + 48)?);
        }
        let mut files = BTreeMap::new();
        let mut at = place(at)?;
        for _ in 0..count {
            if !bytes.get(at..).is_some_and(|rest| rest.starts_with(ENTRY)) {
                return Err("the directory of the archive is damaged: fetch the file once more".to_owned());
            }
            let method = short(bytes, at + 10)?;
            let (mut size, mut local) = (u64::from(word(bytes, at + 20)?), u64::from(word(bytes, at + 42)?));
            let unpacked = word(bytes, at + 24)?;
            let lengths = [28, 30, 32].map(|field| short(bytes, at + field).map(usize::from));
            let [name_length, extra_length, comment_length] = lengths;
            let (name_length, extra_length) = (name_length?, extra_length?);
            let name = bytes.get(at + 46..at + 46 + name_length).ok_or(TRUNCATED)?;
            let name = String::from_utf8_lossy(name).into_owned();
            let extra = bytes.get(at + 46 + name_length..at + 46 + name_length + extra_length).ok_or(TRUNCATED)?;
            large(extra, unpacked, &mut size, &mut local)?;
            if method != 0 {
                return Err(format!("{name} is compressed, which torch.save never does: unpack and save it once more"));
            }
            files.insert(name, contents(bytes, local, size)?);
            at += 46 + name_length + extra_length + comment_length?;
        }
        Ok(Self { files })
    }

    /// The files' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// A file's bytes.
    pub fn file(&self, name: &str) -> Result<&'a [u8], String> {
        self.files.get(name).copied().ok_or_else(|| format!("the archive has no {name}: it is not whole"))
    }
}

fn contents(bytes: &[u8], local: u64, size: u64) -> Result<&[u8], String> {
    let local = place(local)?;
    if !bytes.get(local..).is_some_and(|rest| rest.starts_with(LOCAL)) {
        return Err(TRUNCATED.to_owned());
    }
    let start = local + 30 + usize::from(short(bytes, local + 26)?) + usize::from(short(bytes, local + 28)?);
    let end = start.checked_add(place(size)?).ok_or(TRUNCATED)?;
    bytes.get(start..end).ok_or_else(|| TRUNCATED.to_owned())
}

/// Numbers that do not fit the entry stand in a field of their own (zip64), in this order and only where needed.
fn large(mut extra: &[u8], unpacked: u32, size: &mut u64, local: &mut u64) -> Result<(), String> {
    while extra.len() >= 4 {
        let (kind, length) = (short(extra, 0)?, usize::from(short(extra, 2)?));
        let field = extra.get(4..4 + length).ok_or(TRUNCATED)?;
        if kind == 1 {
            let mut at = if unpacked == u32::MAX { 8 } else { 0 };
            for number in [size, local] {
                if *number == u64::from(u32::MAX) {
                    *number = long(field, at)?;
                    at += 8;
                }
            }
            return Ok(());
        }
        extra = &extra[4 + length..];
    }
    Ok(())
}

fn place(number: u64) -> Result<usize, String> {
    usize::try_from(number).ok().filter(|place| *place < usize::MAX / 2).ok_or_else(|| TRUNCATED.to_owned())
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|found| found.try_into().ok());
    found.ok_or_else(|| TRUNCATED.to_owned())
}

fn short(bytes: &[u8], at: usize) -> Result<u16, String> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Result<u32, String> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Result<u64, String> {
    number(bytes, at).map(u64::from_le_bytes)
}
