//! The rows of no token: a model in training has the vocabulary rounded up, an export has one row for each token.
//!
//! A safetensors file is the length of a header (8 bytes), the header (JSON: for each tensor its type, shape and place)
//! and the tensors, row after row. So cutting a table leaves out its end, and the rest is copied as it is.

use crate::weights::{self, TABLES, read_header};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Leaves the first `kept` of `rows` rows in the tables of the file at `path`, which is written anew beside it and then
/// replaced.
pub fn cut(path: &Path, rows: u64, kept: u64) -> io::Result<()> {
    let beside = path.with_extension("cut");
    let written = write(path, &beside, rows, kept).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // Half a file is of no use.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn write(from: &Path, to: &Path, rows: u64, kept: u64) -> io::Result<()> {
    let mut from = BufReader::with_capacity(1 << 20, File::open(from)?);
    let (mut header, begin) = read_header(&mut from)?;
    let mut entries = weights::entries(&header)?;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut copies = Vec::new();
    let mut end = 0;
    for (name, mut entry) in entries {
        let (start, old_end) = entry.data_offsets;
        let mut bytes = old_end.saturating_sub(start);
        if TABLES.contains(&name.as_str()) {
            let Some(first) = entry.shape.first_mut().filter(|first| **first == rows && rows > 0) else {
                return Err(invalid(format!("{name} is {:?}, but config.json says {rows} rows", entry.shape)));
            };
            *first = kept;
            bytes = bytes / rows * kept;
        }
        copies.push((start, bytes));
        entry.data_offsets = (end, end + bytes);
        end += bytes;
        header.insert(name, serde_json::to_value(entry)?);
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut to = BufWriter::with_capacity(1 << 20, File::create(to)?);
    to.write_all(&(text.len() as u64).to_le_bytes())?;
    to.write_all(&text)?;
    for (start, bytes) in copies {
        from.seek(SeekFrom::Start(begin + start))?;
        if io::copy(&mut from.by_ref().take(bytes), &mut to)? != bytes {
            return Err(invalid("the file ends within a tensor"));
        }
    }
    to.flush()?;
    to.get_ref().sync_all()
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Entry;
    use serde::Deserialize;
    use serde_json::json;

    /// Tensors one after the other: name, shape and bytes.
    fn file(tensors: &[(&str, &[u64], &[u8])]) -> Vec<u8> {
        let mut header = json!({"__metadata__": {"format": "pt"}});
        let mut data = Vec::new();
        for (name, shape, bytes) in tensors {
            let start = data.len();
            data.extend_from_slice(bytes);
            header[name] = json!({"dtype": "U8", "shape": shape, "data_offsets": [start, data.len()]});
        }
        let text = header.to_string();
        [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &data].concat()
    }

    #[test]
    fn tables_lose_their_last_rows_and_nothing_else_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors.partial");
        let before = file(&[
            ("classifier.bias", &[3], b"abc"),
            ("bert.embeddings.word_embeddings.weight", &[3, 2], b"001122"),
            ("other", &[3, 1], b"xyz"),
            ("cls.predictions.bias", &[3], b"BBB"),
        ]);
        std::fs::write(&path, before).unwrap();
        cut(&path, 3, 2).unwrap();
        let after = std::fs::read(&path).unwrap();
        let (header, begin) = read_header(&mut after.as_slice()).unwrap();
        assert_eq!(begin % 8, 0);
        assert_eq!(header["__metadata__"]["format"], "pt");
        for (name, shape, bytes) in [
            ("classifier.bias", json!([3]), "abc"),
            ("bert.embeddings.word_embeddings.weight", json!([2, 2]), "0011"),
            ("other", json!([3, 1]), "xyz"),
            ("cls.predictions.bias", json!([2]), "BB"),
        ] {
            let entry = Entry::deserialize(&header[name]).unwrap();
            let range = (begin + entry.data_offsets.0) as usize..(begin + entry.data_offsets.1) as usize;
            assert_eq!((&json!(entry.shape), &after[range]), (&shape, bytes.as_bytes()), "{name}");
        }
        assert_eq!(after.len() as u64, begin + 12, "no byte between the tensors");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_does_not_fit_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let whole = file(&[("decoder.bias", &[4], b"abcd")]);
        for (bytes, part) in [
            (whole.clone(), "decoder.bias is [4], but config.json says 3 rows"),
            (whole[..whole.len() - 3].to_vec(), "decoder.bias is"),
            (file(&[("x", &[9], b"abc")])[..20].to_vec(), "EOF"),
            (vec![255; 16], "a header of"),
        ] {
            std::fs::write(&path, &bytes).unwrap();
            let error = cut(&path, 3, 2).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        std::fs::write(&path, &file(&[("x", &[3], b"abc")])[..]).unwrap();
        let mut short = std::fs::read(&path).unwrap();
        short.truncate(short.len() - 1);
        std::fs::write(&path, &short).unwrap();
        assert!(cut(&path, 3, 2).unwrap_err().to_string().contains("ends within a tensor"));
    }
}
