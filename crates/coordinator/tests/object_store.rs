//! Checkpoints and corpora behind a real S3 protocol server (moto), which `cargo xtask test` sets up: `TRIREME_S3_SERVER`
//! names it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it leaves out")]

mod support;

use proto::v1;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use support::{FakeTraining, FakeWorker, Server, config, output, wait_for, write_corpus};

/// Ends with the test.
struct ObjectServer {
    process: Child,
    port: u16,
}

impl ObjectServer {
    /// `None` where no such server is set up.
    async fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("TRIREME_S3_SERVER") else {
            assert!(std::env::var_os("CI").is_none(), "TRIREME_S3_SERVER is not set");
            eprintln!("skipped: TRIREME_S3_SERVER names no program (`cargo xtask test` sets it)");
            return None;
        };
        // Free a moment ago; moto takes no port 0.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { process: command.spawn().unwrap(), port };
        wait_for("the S3 server", || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        Some(server)
    }

    fn put(&self, path: &str, content: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = content.len();
        let head =
            format!("PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(content).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_kept_in_and_resumed_from_s3() {
    let Some(objects) = ObjectServer::start().await else { return };
    let endpoint = format!("http://127.0.0.1:{}", objects.port);
    let environment = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ];
    objects.put("/trireme", b"");
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let coordinator = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.args(arguments).envs(environment);
        output(command).await
    };

    // Parquet is read from it.
    let (text, parquet) = (folder.path().join("a.txt"), folder.path().join("a.parquet"));
    std::fs::write(&text, "One two.\n\nThree four.\n").unwrap();
    let (text, parquet) = (text.display().to_string(), parquet.display().to_string());
    let import = ["data", "import", &text, "--out", &parquet, "--document-characters", "5"];
    let (code, _, complaint) = coordinator(&import).await;
    assert_eq!(code, 0, "{complaint}");
    objects.put("/trireme/corpus/a.parquet", &std::fs::read(&parquet).unwrap());
    for source in ["s3://trireme/corpus/a.parquet", "s3://trireme/corpus/*.parquet"] {
        let (code, inspected, complaint) = coordinator(&["data", "inspect", source, "--json"]).await;
        assert_eq!(code, 0, "{complaint}");
        let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["path"], "s3://trireme/corpus/a.parquet");
        assert_eq!(inspected["row_group_rows"], serde_json::json!([2]));
    }
    let (code, _, complaint) = coordinator(&["data", "inspect", "s3://trireme/corpus/b.parquet"]).await;
    assert_eq!(code, 5);
    assert!(complaint.contains("no such file"), "{complaint}");

    // Checkpoints are written to it, one file in several parts; they are listed, verified, and gone on from.
    let data = folder.path().join("data");
    let store = ["--store", "s3://trireme/runs-of-ours"];
    let server = Server::spawn(&data, &store, &environment).await;
    let run = server.submit(&config(folder.path(), 9)).await;
    let (mut worker, mut training) = FakeWorker::trains(&server, "alpha", 3).await;
    training.padding = 17 << 20;
    assert!(worker.checkpoint(&server, &training).await);
    for _ in 3..6 {
        worker.step(&mut training).await;
    }
    assert!(worker.checkpoint(&server, &training).await);
    let all = |run: &v1::Run| run.checkpoints.len() == 2 && run.checkpoints.iter().any(|it| it.verified);
    let shown = server.wait_until(&run, "two checkpoints", all).await;
    assert!(shown.checkpoints[1].path.starts_with("s3://trireme/runs-of-ours/runs/"), "{shown:?}");
    assert!(shown.checkpoints[1].bytes > 17 << 20);
    for name in ["small@3", "small@6"] {
        let (code, verified, complaint) = server.command(&["checkpoints", "verify", name]).await;
        assert_eq!(code, 0, "{verified}{complaint}");
    }
    let out = folder.path().join("export").display().to_string();
    let (code, _, complaint) =
        server.command(&["checkpoints", "export", "--format", "hf", "small", "--out", &out]).await;
    assert_eq!(code, 0, "{complaint}");

    // The newest one is damaged where it lies, everybody is gone: the run goes on from the one before.
    let model = format!("{}/model.safetensors", shown.checkpoints[1].path.trim_start_matches("s3:/"));
    objects.put(&model, b"something else");
    server.stop().await;
    assert_eq!(worker.next().await, None);
    let server = Server::spawn(&data, &store, &environment).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    let assign = worker.assigned_at_last().await;
    assert_eq!(assign.restore.as_ref().map(|at| at.step), Some(3));
    let told = |run: &v1::Run| run.events.iter().any(|event| event.text.contains("at step 6 was passed over: `model"));
    server.wait_until(&run, "the note of it", told).await;
    let mut training = FakeTraining::restored(assign, 3);
    for _ in 3..9 {
        worker.step(&mut training).await;
    }
    assert!(worker.checkpoint(&server, &training).await);
    worker.finished(&training).await;
    server.wait_until(&run, "completion", |run| run.status == "completed").await;
    server.stop().await;
}
