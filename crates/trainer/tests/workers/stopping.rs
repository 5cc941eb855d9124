//! Early stopping: all members end at the same step, whatever befell the run before.

use crate::cluster::{Cluster, Plan, undisturbed};
use crate::data::finetuning;
use crate::process::Verdict;

const LABELLED: &str = "paths = [\"labelled.parquet\"]\nlabel_column = \"label\"\nunit_rows = 4";

/// Nothing is better by so much than the first evaluation, after step 2: the third one, after step 6, is the last.
fn config() -> String {
    finetuning(LABELLED, "kind = \"classify\"", "")
        .replace("every_steps = 0", "every_steps = 2\npatience = 2\nmin_delta = 100.0\n[checkpoint]\nevery_steps = 2")
}

fn ends_at_6(cluster: &mut Cluster, members: &[usize]) -> String {
    for &member in members {
        let verdict = cluster.verdict(member);
        assert!(matches!(verdict, Verdict::Finished { step: 6, .. }), "{verdict:?}");
    }
    cluster.digest(members)
}

#[test]
fn a_run_ends_after_evaluations_without_a_better_one() {
    let (_, mut alone) = undisturbed(&config(), 1);
    let expected = ends_at_6(&mut alone, &[0]);
    assert_eq!(alone.log(0).len(), 6);
    assert!(alone.checkpoint(6).join("model.safetensors").exists());
    let (_, mut three) = undisturbed(&config(), 3);
    assert_eq!(ends_at_6(&mut three, &[0, 1, 2]), expected);
    assert_eq!(three.timeless(), alone.timeless());

    let accuracy = config().replace("patience = 2", "patience = 10").replace("= 40", "= 400");
    let accuracy = accuracy.replace("min_delta = 100.0", "best_metric = \"accuracy\"");
    let (_, mut cluster) = undisturbed(&accuracy, 1);
    let Verdict::Finished { step, .. } = cluster.verdict(0) else { panic!("it did not finish") };
    assert!((22..400).contains(&step), "{step}");
    let lines = cluster.log(0);
    let accuracies: Vec<f64> = lines
        .iter()
        .flat_map(|line| &line.metrics)
        .filter(|(name, _)| name == "eval/accuracy")
        .map(|(_, value)| *value)
        .collect();
    let best_at = accuracies.len() - 11;
    let best = accuracies[best_at];
    assert!(accuracies[..best_at].iter().all(|value| *value < best), "{accuracies:?}");
    assert!(accuracies[best_at..].iter().all(|value| *value <= best), "{accuracies:?}");
}

#[test]
fn it_ends_at_the_same_step_after_pauses_joins_and_restarts() {
    let (_, mut alone) = undisturbed(&config(), 1);
    let expected = ends_at_6(&mut alone, &[0]);

    let mut cluster = Cluster::new(&config(), 2);
    cluster.assign(&[0, 1], &Plan { pause_after: Some(5), ..Plan::default() });
    assert_eq!(cluster.verdict(0), Verdict::Paused(5));
    cluster.verdict(1);
    let stored = cluster.checkpoint(5);
    // The joiner has seen no evaluation.
    let joiner = cluster.add_worker();
    cluster.assign(&[1, joiner], &Plan::default());
    assert_eq!(ends_at_6(&mut cluster, &[1, joiner]), expected, "a joiner");

    let mut resumed = Cluster::new(&config(), 2);
    resumed.assign(&[0, 1], &Plan { restore: Some(stored), ..Plan::default() });
    assert_eq!(ends_at_6(&mut resumed, &[0, 1]), expected, "from a checkpoint");
    let last = resumed.checkpoint(6);

    let mut over = Cluster::new(&config(), 1);
    over.assign(&[0], &Plan { restore: Some(last), attempt: 1, ..Plan::default() });
    assert_eq!(ends_at_6(&mut over, &[0]), expected, "there is nothing left to do");
    assert!(over.log(0).is_empty());
}

#[test]
fn a_member_that_dies_in_the_last_evaluation_changes_nothing() {
    let (_, mut alone) = undisturbed(&config(), 1);
    let expected = ends_at_6(&mut alone, &[0]);
    let mut cluster = Cluster::new(&config(), 2);
    cluster.assign(&[0, 1], &Plan { pause_after: Some(5), ..Plan::default() });
    cluster.verdict(0);
    cluster.verdict(1);
    cluster.assign(&[0, 1], &Plan { dies_in_evaluation: Some(1), ..Plan::default() });
    let verdict = cluster.verdict(0);
    assert!(matches!(verdict, Verdict::Collective { step: Some(6), .. }), "{verdict:?}");
    cluster.assign(&[0], &Plan::default());
    assert_eq!(ends_at_6(&mut cluster, &[0]), expected);
    assert!(cluster.log(0).last().unwrap().metrics.iter().any(|(name, _)| name == "eval/loss"));
}
