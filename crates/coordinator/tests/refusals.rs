//! What the coordinator refuses, and how it says so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use proto::v1;
use proto::v1::coordinator_message::Kind as Directive;
use proto::v1::worker_message::Kind as Report;
use support::{FakeTraining, FakeWorker, Server, config, output, upload, wait_for, write_corpus};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_without_the_token_but_health_and_reflection() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    for token in [None, Some("wrong")] {
        let channel = server.channel(token).await;
        let list = v1::runs_client::RunsClient::new(channel.clone()).list(v1::ListRunsRequest {}).await;
        assert_eq!(list.unwrap_err().code(), Code::Unauthenticated);
        let session = v1::control_client::ControlClient::new(channel.clone()).session(tokio_stream::empty()).await;
        assert_eq!(session.unwrap_err().code(), Code::Unauthenticated);
        let upload =
            v1::checkpoints_client::CheckpointsClient::new(channel.clone()).upload(tokio_stream::empty()).await;
        assert_eq!(upload.unwrap_err().code(), Code::Unauthenticated);
        let count = v1::rendezvous_client::RendezvousClient::new(channel.clone()).count(v1::Scope::default()).await;
        assert_eq!(count.unwrap_err().code(), Code::Unauthenticated);
        let describe = v1::data_client::DataClient::new(channel.clone()).describe(v1::DescribeRequest::default()).await;
        assert_eq!(describe.unwrap_err().code(), Code::Unauthenticated);
        let mut metrics = v1::metrics_client::MetricsClient::new(channel.clone());
        let query = metrics.query(v1::QueryMetricsRequest::default()).await;
        assert_eq!(query.unwrap_err().code(), Code::Unauthenticated);
        let mut workers = v1::workers_client::WorkersClient::new(channel.clone());
        let list = workers.list(v1::ListWorkersRequest::default()).await;
        assert_eq!(list.unwrap_err().code(), Code::Unauthenticated);
        let drain = workers.drain(v1::WorkerRequest::default()).await;
        assert_eq!(drain.unwrap_err().code(), Code::Unauthenticated);
        assert!(services(channel.clone()).await.iter().any(|name| name == "trireme.v1.Workers"));
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest { service: "trireme.v1.Runs".to_owned() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    }
    // What a person sees.
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.args(["runs", "list"]).env("TRIREME_COORDINATOR", &server.address).env("TRIREME_TOKEN", "wrong");
    let (code, _, message) = output(command).await;
    assert_eq!(code, 4);
    assert!(message.contains("token"), "{message}");
    server.stop().await;
}

/// What reflection lists.
async fn services(channel: support::Authenticated) -> Vec<String> {
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1 as reflection;
    let request = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_generation_is_fenced() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let server = Server::start(&folder.path().join("data")).await;
    let run = server.submit(&config(folder.path(), 6)).await;
    let mut first = FakeWorker::join(&server, "alpha", None).await;
    let mut training = FakeTraining::new(first.assigned().await);
    let old = training.assign.generation;
    first.step(&mut training).await;
    server.wait_until(&run, "step 1", |run| run.step == 1).await;
    let scope = |generation| Some(v1::Scope { run: run.clone(), generation, worker: "alpha".to_owned() });
    let key = |generation| v1::KeyValue { scope: scope(generation), key: "k".into(), value: b"v".to_vec() };
    let mut rendezvous = server.rendezvous().await;
    rendezvous.set(key(old)).await.unwrap();

    // A second worker joins at a step boundary: a new generation.
    let mut second = FakeWorker::join(&server, "beta", None).await;
    match first.next().await {
        Some(Directive::Request(request)) => assert!(request.pause),
        other => panic!("{other:?}"),
    }
    first.report(Report::Paused(v1::Paused { run: run.clone(), generation: old, step: 1 })).await;
    let (assign, other) = (first.assigned().await, second.assigned().await);
    assert!(assign.generation > old && other.generation == assign.generation);
    assert_eq!((assign.world, other.world, assign.slots.len(), other.slots.len()), (2, 2, 1, 1));
    let refused = rendezvous.set(key(old)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    rendezvous.set(key(assign.generation)).await.unwrap();
    let request = v1::KeyRequest { scope: scope(assign.generation), key: "k".into(), wait_ms: 1000 };
    assert_eq!(rendezvous.get(request).await.unwrap().into_inner().value, b"v");
    // A checkpoint of a step that the old generation never committed; one that it did is still welcome.
    let reference = |step| v1::CheckpointRef { run: run.clone(), generation: old, step };
    let refused = upload(&server, &reference(2), "model.safetensors", b"x").await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    upload(&server, &reference(1), "model.safetensors", b"x").await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    let _first = FakeWorker::join(&server, "alpha", None).await;
    let mut second = FakeWorker::connect_as(&server, "alpha", 2, None).await;
    match second.next().await {
        Some(Directive::Goodbye(goodbye)) => assert!(goodbye.reason.contains("--name"), "{}", goodbye.reason),
        other => panic!("{other:?}"),
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn senseless_reports_end_the_session_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let server = Server::start(&folder.path().join("data")).await;
    let run = server.submit(&config(folder.path(), 6)).await;
    let mut worker = FakeWorker::join(&server, "alpha", None).await;
    worker.assigned().await;
    let backwards = v1::Segment { slot: 0, turn: 0, start: 5, end: 2, total: 9 };
    let progress =
        v1::Progress { run: run.clone(), generation: 1, step: 1, segments: vec![backwards], ..Default::default() };
    worker.report(Report::Progress(progress)).await;
    assert_eq!(worker.next().await, None);
    assert_eq!(server.show(&run).await.step, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_runs_are_refused_when_they_are_submitted() {
    let folder = tempfile::tempdir().unwrap();
    write_corpus(folder.path());
    let path = folder.path();
    std::fs::write(path.join("empty.jsonl"), "").unwrap();
    std::fs::write(path.join("nulls.jsonl"), "{\"text\": null}\n".repeat(4)).unwrap();
    std::fs::write(path.join("broken.jsonl"), "{\"text\": \"ship\"}\n{\"text\": ").unwrap();
    let labelled = |label: &str| format!("{{\"text\": \"ship\", \"label\": {label}}}\n");
    std::fs::write(path.join("labelled.jsonl"), [labelled("\"a\""), labelled("\"b\"")].concat().repeat(20)).unwrap();
    std::fs::write(path.join("unlabelled.jsonl"), labelled("null").repeat(4)).unwrap();
    // Other models to start from: one of another size, one whose vocabulary is too small, one of another tokenizer, one of
    // which half is there, and one that was not fetched.
    const NO_TENSOR: &[u8] = b"\x02\0\0\0\0\0\0\0{}";
    for (name, hf, weights) in [
        ("large", r#"{"model_type": "bert", "num_hidden_layers": 24, "hidden_size": 1024}"#, NO_TENSOR),
        ("narrow", r#"{"model_type": "bert", "num_hidden_layers": 1, "vocab_size": 8}"#, NO_TENSOR),
        ("gpt", r#"{"model_type": "gpt2"}"#, NO_TENSOR),
        ("other", r#"{"model_type": "bert", "num_hidden_layers": 1, "trireme_tokenizer": "blake3:00"}"#, NO_TENSOR),
        ("cut", r#"{"model_type": "bert", "num_hidden_layers": 1}"#, &NO_TENSOR[..9]),
        ("pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", NO_TENSOR),
    ] {
        std::fs::create_dir(path.join(name)).unwrap();
        std::fs::write(path.join(name).join("config.json"), hf).unwrap();
        std::fs::write(path.join(name).join("model.safetensors"), weights).unwrap();
    }
    let from = |name: &str| {
        let mut like_that = config(path, 6) + &format!("\n[init]\nfrom = \"hf:{}/{name}\"\n", path.display());
        for chosen in ["architecture = \"modern\"", "hidden = 16", "heads = 2"] {
            like_that = like_that.replace(chosen, "");
        }
        like_that
    };
    let server = Server::start(&path.join("data")).await;
    let good = config(path, 6);
    let held_out = format!("label_column = \"label\"\neval_paths = [\"{}/unlabelled.jsonl\"]", path.display());
    let unmeasured = good
        .replace("\"pretrain\"", "\"finetune\"")
        .replace("corpus.jsonl", "labelled.jsonl")
        .replace("unit_rows = 16", &held_out)
        .replace("\"mlm\"", "\"classify\"");
    let cases: Vec<(String, &[&str])> = vec![
        (good.replace("corpus.jsonl", "absent.jsonl"), &["absent.jsonl"]),
        (good.replace("corpus.jsonl", "empty.jsonl"), &["empty.jsonl"]),
        (good.replace("corpus.jsonl", "nulls.jsonl"), &["nulls.jsonl", "null"]),
        (good.replace("corpus.jsonl", "broken.jsonl"), &["broken.jsonl"]),
        (good.replace("unit_rows = 16", "column = \"txt\""), &["txt", "did you mean `text`"]),
        (good.replace("unit_rows = 16", "unit_row = 16"), &["unit_row", "did you mean `data.unit_rows`"]),
        (good.replace("vocab.txt", "absent.txt"), &["absent.txt", "tokenizer"]),
        (good.replace("layers = 1", "layers = 1\n vocabulary = 8"), &["vocabulary", "15 tokens"]),
        (good.replace("layers = 1", "layers = 1\n max_positions = 8"), &["max_positions"]),
        (good.clone() + "\n[init]\nfrom = \"run:nobody\"\n", &["init.from", "nobody"]),
        (good.clone() + "\n[init]\nfrom = \"hf:/nowhere\"\n", &["/nowhere", "config.json"]),
        (good.replace("\"small\"", "\"latest\""), &["run.name", "`latest` as the newest run"]),
        (good.replace("\"small\"", "\"0193a1b2-0000-7abc-8def-0123456789ab\""), &["run.name", "as a run's id"]),
        (from("large"), &["model.layers", "24"]),
        (from("narrow"), &["8 rows"]),
        (from("gpt"), &["gpt2", "config.json"]),
        (from("other"), &["does not belong to the model", "blake3:00"]),
        (unmeasured, &["unlabelled.jsonl, line 1", "all others of `data.eval_paths` (4)"]),
        (from("pointer"), &["/pointer`: its config.json", "git lfs pull"]),
        (from("cut"), &["cut/model.safetensors", "not whole (9 bytes)"]),
    ];
    for (config, wanted) in cases {
        let refused = server.runs().await.submit(v1::SubmitRequest { config: config.clone() }).await;
        let Err(status) = refused else { panic!("this was accepted:\n{config}") };
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        for word in wanted {
            assert!(status.message().contains(word), "no `{word}` in: {}", status.message());
        }
    }
    assert!(server.runs().await.list(v1::ListRunsRequest {}).await.unwrap().into_inner().runs.is_empty());
    let (code, _, message) = server.command(&["runs", "show", "nobody"]).await;
    assert_eq!(code, 1);
    assert!(message.contains("there is no run `nobody`"), "{message}");
    // The same from the command line: exit code 5, and the line of the file.
    let file = path.join("run.toml");
    std::fs::write(&file, good.replace("unit_rows", "unit_row")).unwrap();
    let (code, _, message) = server.command(&["submit", &file.display().to_string()]).await;
    assert_eq!(code, 5);
    assert!(message.contains("run.toml:8") && message.contains("unit_rows"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_starts_ends_and_explains_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.env_remove("TRIREME_COORDINATOR").env_remove("TRIREME_TOKEN").env("XDG_DATA_HOME", folder.path());
        command.kill_on_drop(true);
        command
    };
    // Nobody is there.
    let mut command = program();
    command.args(["runs", "list"]);
    let (code, _, message) = output(command).await;
    assert_eq!(code, 75);
    assert!(message.contains("coordinator start"), "{message}");
    let mut command = program();
    command.args(["runs", "list", "--coordinator", "127.0.0.1:1"]);
    let (code, _, message) = output(command).await;
    assert_eq!(code, 75);
    assert!(message.contains("127.0.0.1:1") && message.contains("coordinator start"), "{message}");

    let data_text = data.display().to_string();
    let mut first = program();
    first.args(["start", "--listen", "127.0.0.1:0", "--data-dir", &data_text]);
    let mut first = first.stderr(std::process::Stdio::null()).spawn().unwrap();
    let endpoint = data.join("endpoint");
    wait_for("the endpoint", || endpoint.exists()).await;
    let address = std::fs::read_to_string(&endpoint).unwrap().trim().to_owned();

    // The folder is taken, the port is taken, the address is not for plain text.
    let mut command = program();
    command.args(["start", "--listen", "127.0.0.1:0", "--data-dir", &data_text]);
    let (code, _, message) = output(command).await;
    assert_eq!(code, 1);
    assert!(message.contains(&data_text) && message.contains("in use by another coordinator"), "{message}");
    let other = folder.path().join("other").display().to_string();
    let mut command = program();
    command.args(["start", "--listen", &address, "--data-dir", &other]);
    let (code, _, message) = output(command).await;
    assert_eq!(code, 1);
    assert!(message.contains(&address) && message.contains("--listen"), "{message}");
    let mut command = program();
    command.args(["start", "--listen", "0.0.0.0:0", "--data-dir", &other]);
    let (code, _, message) = output(command).await;
    assert_eq!(code, 1);
    assert!(message.contains("--insecure-plaintext"), "{message}");

    let pid = i32::try_from(first.id().unwrap()).unwrap();
    let killed = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
    let status = tokio::time::timeout(support::PATIENCE, first.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!endpoint.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_need_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await;
    let mut stream = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    server.stop().await;
}
