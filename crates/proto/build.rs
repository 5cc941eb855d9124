//! Compiles proto/trireme/v1 with protox, so that nobody needs protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = ["common", "control", "rendezvous", "checkpoints", "metrics", "runs", "sweeps", "data", "workers"];
    let files: Vec<String> = files.iter().map(|name| format!("trireme/v1/{name}.proto")).collect();
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(&files, [&root])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, protox::prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
