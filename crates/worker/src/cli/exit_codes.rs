//! Exit codes are those of docs/reference/contract.md, as of the coordinator's own commands.

use super::{Arguments, Problem, run};
use crate::connect::Coordinator;
use crate::loaded::tests::write_model;
use clap::Parser;
use config::{LFS_POINTER_BEGINNING, Pooling};
use model::Head;
use tonic::Code::{DeadlineExceeded, InvalidArgument, NotFound, Unauthenticated, Unavailable};

/// What a command that fails ends with.
#[track_caller]
fn code(arguments: &[&str]) -> u8 {
    let arguments = Arguments::try_parse_from([&["worker"], arguments].concat()).unwrap();
    run(arguments.command).err().unwrap().code
}

#[test]
fn what_is_given_wrong_is_told_from_what_does_not_work() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (words, classes, notes, pointer) = (at("words"), at("classes"), at("notes"), at("pointer.txt"));
    for name in [&words, &classes, &notes] {
        std::fs::create_dir(name).unwrap();
    }
    write_model(words.as_ref(), Head::MaskedLm);
    let labels = vec!["no".to_owned(), "yes".to_owned()];
    write_model(classes.as_ref(), Head::SequenceClassifier { labels, pooling: Pooling::Cls });
    std::fs::write(at("notes/notes.txt"), "mine").unwrap();
    std::fs::write(&pointer, LFS_POINTER_BEGINNING).unwrap();
    let absent = at("absent");

    // Arguments that cannot be, or not of this model.
    assert_eq!(code(&["predict", "--model", &classes, "--text", "sea", "--choice", "a"]), 2);
    assert_eq!(code(&["predict", "--model", &classes, "--text", "sea", "--top", "2"]), 2);
    assert_eq!(code(&["predict", "--checkpoint", "tagger@x", "--text", "sea"]), 2);
    assert_eq!(code(&["prompt", "--model", &words, "--text", "sea"]), 2);
    let template = ["prompt", "--model", &words, "--text", "sea", "--template", "{text} [MASK]", "--label"];
    assert_eq!(code(&[&template[..], &["a=sea", "--label", "b=qqq"]].concat()), 2, "a word that is none");
    // Data, models and folders that are not valid.
    assert_eq!(code(&["predict", "--model", &absent, "--text", "sea"]), 5);
    assert_eq!(code(&["predict", "--model", &words, "--text", "sea"]), 5, "no labels");
    assert_eq!(code(&["predict", "--model", &classes, "--text", "sea", "--pairs"]), 5, "no tab");
    assert_eq!(code(&["predict", "--model", &classes, "--file", &absent]), 5);
    assert_eq!(code(&["predict", "--model", &classes, "--file", &pointer]), 5);
    assert_eq!(code(&["fill-mask", "--model", &words, "--text", "sea"]), 5, "no [MASK]");
    assert_eq!(code(&["embed", "--model", &words, "--file", &pointer]), 5);
    assert_eq!(code(&["embed", "--model", &words, "--text", "sea", "--out", "a.csv"]), 5);
    assert_eq!(code(&["embed", "--model", &words, "--text", "sea", "--explain", "sea"]), 5, "a single text");
    assert_eq!(code(&["export-onnx", "--model", &words, "--out", &notes]), 5, "not empty");
    let train = ["word2vec", "train", "--corpus", &absent, "--out"];
    assert_eq!(code(&[&train[..], &[at("a.txt").as_str()]].concat()), 5);
    // Where nothing can be written, nothing is wrong with what was given.
    assert_eq!(code(&[&train[..], &[at("absent/a.txt").as_str()]].concat()), 1);
}

#[tokio::test]
async fn what_a_coordinator_refuses_has_the_code_of_its_own_commands() {
    let coordinator = Coordinator::new("127.0.0.1:7117", None).unwrap();
    let code = |code| Problem::from_status(&coordinator, &tonic::Status::new(code, "why")).code;
    let codes = [InvalidArgument, NotFound, Unauthenticated, Unavailable, DeadlineExceeded].map(code);
    assert_eq!(codes, [5, 1, 4, 75, 75]);
}
