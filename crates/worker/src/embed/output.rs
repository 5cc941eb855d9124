//! Vectors as JSON lines, as a NumPy array or as safetensors.

use crate::cli::Problem;
use serde_json::json;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Room for what stands before the rows, which says how many there are; the rows begin where both formats want them.
const HEADER: usize = 128;

/// Where vectors go.
pub enum Sink {
    /// JSON lines to standard output, as they come.
    Lines,
    /// A file, which appears under its name when all vectors are there.
    File { path: PathBuf, format: Format, rows: usize, file: BufWriter<NamedTempFile> },
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
                return Err(Problem::input(text).with_help("end it in .npy, .safetensors or .jsonl"));
            }
        };
        let begin = || -> io::Result<_> {
            let mut file = BufWriter::new(beside(path)?);
            if format != Format::JsonLines {
                file.write_all(&[0; HEADER])?;
            }
            Ok(file)
        };
        let file = begin().map_err(|error| unwritable(path, &error))?;
        Ok(Self::File { path: path.to_owned(), format, rows: 0, file })
    }

    /// A text's vector; `cut`: some of the text did not fit, which JSON lines say.
    pub fn add(&mut self, text: &str, vector: &[f32], cut: bool) -> Result<(), Problem> {
        match self {
            Self::Lines => writeln!(io::stdout().lock(), "{}", line(text, vector, cut))
                .map_err(|error| Problem::failure(format!("the output cannot be written: {error}"))),
            Self::File { path, format, rows, file } => {
                *rows += 1;
                let written = match format {
                    Format::JsonLines => writeln!(file, "{}", line(text, vector, cut)),
                    Format::Npy | Format::Safetensors => {
                        vector.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
                    }
                };
                written.map_err(|error| unwritable(path, &error))
            }
        }
    }

    /// Writes how much there is, and gives the file its name.
    pub fn finish(self, width: usize) -> Result<(), Problem> {
        let Self::File { path, format, rows, mut file } = self else { return Ok(()) };
        let header = match format {
            Format::JsonLines => Vec::new(),
            Format::Npy => npy(rows, width),
            Format::Safetensors => safetensors(rows, width),
        };
        let mut end = || -> io::Result<()> {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)?;
            file.flush()
        };
        let appeared = end().and_then(|()| appear(file.into_inner().map_err(|error| error.into_error())?, &path));
        appeared.map_err(|error| unwritable(&path, &error))
    }
}

/// A file that is there whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let write = || -> io::Result<()> {
        let mut file = beside(path)?;
        file.write_all(bytes)?;
        appear(file, path)
    };
    write().map_err(|error| unwritable(path, &error))
}

/// In the same folder, so that it can take the name.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    NamedTempFile::new_in(folder)
}

fn appear(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    // As if it had been made here: the temporary file is for its owner's eyes only.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(permissions)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

fn unwritable(path: &Path, error: &io::Error) -> Problem {
    Problem::failure(format!("{} cannot be written: {error}", path.display()))
}

fn line(text: &str, vector: &[f32], cut: bool) -> String {
    json!({ "text": text, "embedding": vector, "cut": cut }).to_string()
}

/// What stands before the rows in NumPy's format, version 1.0: float32, little-endian, row after row.
fn npy(rows: usize, width: usize) -> Vec<u8> {
    let begins = b"\x93NUMPY\x01\x00";
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let length = HEADER - begins.len() - 2;
    [&begins[..], &(length as u16).to_le_bytes(), format!("{text:<0$}\n", length - 1).as_bytes()].concat()
}

/// The same of safetensors, whose header may end in spaces.
fn safetensors(rows: usize, width: usize) -> Vec<u8> {
    let tensor =
        json!({ "dtype": "F32", "shape": [rows, width], "data_offsets": [0, rows * width * size_of::<f32>()] });
    let length = HEADER - size_of::<u64>();
    let text = format!("{:<length$}", json!({ "embeddings": tensor }).to_string());
    [&(length as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numpy_file_is_as_its_format_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.npy");
        let mut sink = Sink::of(Some(&path)).ok().unwrap();
        sink.add("a", &[1.0, 2.0, 3.0], false).ok().unwrap();
        sink.add("b", &[4.0, 5.0, -6.5], false).ok().unwrap();
        assert!(!path.exists(), "not before it is whole");
        sink.finish(3).ok().unwrap();
        let bytes = std::fs::read(path).unwrap();
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
    fn the_largest_numbers_have_room_in_the_headers() {
        // As many float32 values as 2^64 bytes hold.
        for header in [npy(1 << 50, 1 << 12), safetensors(1 << 50, (1 << 12) - 1)] {
            assert_eq!(header.len(), HEADER);
        }
    }

    #[test]
    fn files_hold_every_row_and_json_lines_say_which_text_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            let mut sink = Sink::of(Some(&path)).ok().unwrap();
            sink.add("a", &[1.0, 2.0], false).ok().unwrap();
            sink.add("b", &[3.0, 4.0], true).ok().unwrap();
            sink.finish(2).ok().unwrap();
            std::fs::read(path).unwrap()
        };
        let tensors = model::safetensors_io::read(&write("v.safetensors")).unwrap();
        assert_eq!((tensors[0].0.as_str(), tensors[0].1.size()), ("embeddings", vec![2, 2]));
        assert_eq!(tensors[0].1.double_value(&[1, 0]), 3.0);
        let lines = String::from_utf8(write("v.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["cut"], json!(false));
        assert_eq!(lines[1], json!({"text": "b", "embedding": [3.0, 4.0], "cut": true}));
        assert!(write("v.npy").ends_with(&4f32.to_le_bytes()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing else is left");
        let (message, help) = Sink::of(Some(Path::new("v.csv"))).err().unwrap().into_text_and_help();
        assert!(message.contains("v.csv") && help.unwrap().contains(".npy"));
    }
}
