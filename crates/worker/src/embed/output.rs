//! Vectors as JSON lines, as a NumPy array or as safetensors.

use crate::cli::Problem;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Where vectors go.
pub enum Sink {
    /// JSON lines to standard output, as they come.
    Lines,
    /// A file, written when all vectors are there.
    File { path: PathBuf, format: Format, rows: usize, values: Vec<f32>, lines: String },
}

/// By the name's ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Npy,
    Safetensors,
    JsonLines,
}

impl Sink {
    /// For `--out`.
    pub fn of(path: Option<&Path>) -> Result<Self, Problem> {
        let Some(path) = path else { return Ok(Self::Lines) };
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Format::Npy,
            Some("safetensors") => Format::Safetensors,
            Some("jsonl") => Format::JsonLines,
            _ => {
                let text = format!("{}: the name's ending does not tell the format", path.display());
                return Err(Problem::failure(text).with_help("end it in .npy, .safetensors or .jsonl"));
            }
        };
        Ok(Self::File { path: path.to_owned(), format, rows: 0, values: Vec::new(), lines: String::new() })
    }

    pub fn add(&mut self, text: &str, vector: &[f32]) -> Result<(), Problem> {
        match self {
            Self::Lines => writeln!(std::io::stdout().lock(), "{}", line(text, vector))
                .map_err(|error| Problem::failure(format!("the output cannot be written: {error}")))?,
            Self::File { format: Format::JsonLines, lines, .. } => {
                lines.push_str(&line(text, vector));
                lines.push('\n');
            }
            Self::File { rows, values, .. } => {
                *rows += 1;
                values.extend_from_slice(vector);
            }
        }
        Ok(())
    }

    /// Writes what was gathered.
    pub fn finish(self, width: usize) -> Result<(), Problem> {
        let Self::File { path, format, rows, values, lines } = self else { return Ok(()) };
        let bytes = match format {
            Format::Npy => npy(rows, width, &values),
            Format::JsonLines => lines.into_bytes(),
            Format::Safetensors => {
                let tensor = Tensor::from_slice(&values).reshape([rows as i64, width as i64]);
                model::safetensors_io::write(&[("embeddings".to_owned(), tensor)])
                    .map_err(|error| Problem::failure(error.to_string()))?
            }
        };
        write_whole(&path, &bytes)
    }
}

/// A file that is there whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        // As if it had been made here: the temporary file is for its owner's eyes only.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(permissions)?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(|_| ()).map_err(|error| Problem::failure(format!("{} cannot be written: {error}", path.display())))
}

fn line(text: &str, vector: &[f32]) -> String {
    json!({ "text": text, "embedding": vector }).to_string()
}

/// NumPy's format, version 1.0: float32, little-endian, row after row.
fn npy(rows: usize, width: usize, values: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // Magic, version and length are 10 bytes; the data begins at a multiple of 64, after a line break.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - header.len() - 1));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numpy_file_is_as_its_format_says() {
        let bytes = npy(2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, -6.5]);
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        assert_eq!((10 + header) % 64, 0);
        let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
        assert!(
            text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }") && text.ends_with('\n')
        );
        assert_eq!(bytes.len(), 10 + header + 24);
        assert_eq!(&bytes[bytes.len() - 4..], (-6.5f32).to_le_bytes());
    }

    #[test]
    fn files_hold_every_row() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            let mut sink = Sink::of(Some(&path)).ok().unwrap();
            sink.add("a", &[1.0, 2.0]).ok().unwrap();
            sink.add("b", &[3.0, 4.0]).ok().unwrap();
            sink.finish(2).ok().unwrap();
            std::fs::read(path).unwrap()
        };
        let tensors = model::safetensors_io::read(&write("v.safetensors")).unwrap();
        assert_eq!((tensors[0].0.as_str(), tensors[0].1.size()), ("embeddings", vec![2, 2]));
        assert_eq!(tensors[0].1.double_value(&[1, 0]), 3.0);
        let lines = String::from_utf8(write("v.jsonl")).unwrap();
        let second: serde_json::Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
        assert_eq!(second, json!({"text": "b", "embedding": [3.0, 4.0]}));
        assert!(write("v.npy").ends_with(&4f32.to_le_bytes()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing else is left");
        let (message, help) = Sink::of(Some(Path::new("v.csv"))).err().unwrap().into_text_and_help();
        assert!(message.contains("v.csv") && help.unwrap().contains(".npy"));
    }
}
