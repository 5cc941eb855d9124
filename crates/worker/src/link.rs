//! Frames between an agent and its trainer process: a big-endian u32 length, then one protobuf message.
//!
//! Both directions speak the control session's own two messages, so there is one protocol to know. The agent's side is
//! asynchronous, the trainer's blocking. Neither reading function may be cancelled half way: give each its own task or
//! thread.

use prost::Message;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A frame of more bytes than this is a defect: the largest message is an `Assign` with its config.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// One message as a frame.
fn encode(message: &impl Message) -> Vec<u8> {
    let mut frame = vec![0; 4];
    message.encode(&mut frame).expect("a Vec grows as needed");
    let length = u32::try_from(frame.len() - 4).expect("messages are far smaller than 4 GiB");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

fn body_length(header: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    Ok(length)
}

fn decode<M: Message + Default>(body: &[u8]) -> io::Result<M> {
    M::decode(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes one message; returns when the kernel has it.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    stream.write_all(&encode(message)).await
}

/// Reads one message; None at the end of the stream.
pub async fn read<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<M>> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; body_length(header)?];
    stream.read_exact(&mut body).await?;
    decode(&body).map(Some)
}

/// As [`write`], blocking.
pub fn write_blocking(stream: &mut impl io::Write, message: &impl Message) -> io::Result<()> {
    stream.write_all(&encode(message))
}

/// As [`read`], blocking.
pub fn read_blocking<M: Message + Default>(stream: &mut impl io::Read) -> io::Result<Option<M>> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; body_length(header)?];
    stream.read_exact(&mut body)?;
    decode(&body).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1;

    fn messages() -> Vec<v1::Assign> {
        let config = |size: usize| v1::Assign { config: "x".repeat(size), rank: size as u32, ..Default::default() };
        vec![v1::Assign::default(), config(1), config(70_000)]
    }

    #[tokio::test]
    async fn blocking_and_asynchronous_sides_understand_each_other() {
        let mut bytes = Vec::new();
        for message in messages() {
            write_blocking(&mut bytes, &message).unwrap();
        }
        let mut source = bytes.as_slice();
        for message in messages() {
            assert_eq!(read(&mut source).await.unwrap(), Some(message));
        }
        assert_eq!(read::<v1::Assign>(&mut source).await.unwrap(), None);

        let mut bytes = Vec::new();
        for message in messages() {
            write(&mut bytes, &message).await.unwrap();
        }
        let mut source = bytes.as_slice();
        for message in messages() {
            assert_eq!(read_blocking(&mut source).unwrap(), Some(message));
        }
        assert_eq!(read_blocking::<v1::Assign>(&mut source).unwrap(), None);
    }

    #[test]
    fn a_mad_length_is_refused_before_memory_is_taken() {
        let error = read_blocking::<v1::Assign>(&mut [0xff; 8].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
