//! Kills, joins, pauses and checkpoints leave no trace in the weights.

use crate::cluster::{Cluster, Plan, undisturbed};
use crate::data::{in_buckets, pretraining};
use crate::process::{self, Verdict};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn survivors_of_a_kill_end_with_the_bits_of_an_undisturbed_run() {
    let config = pretraining("");
    let (expected, _) = undisturbed(&config, 1);
    let seed: u64 = match std::env::var("TRIREME_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => rand::random(),
    };
    println!("TRIREME_TEST_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let at = random.random_range(1..25);
    let victim = random.random_range(0..3);
    println!("worker {victim} is killed after step {at}");
    let mut cluster = Cluster::new(&config, 3);
    cluster.assign(&[0, 1, 2], &Plan::default());
    cluster.wait_for_step(victim, at);
    cluster.kill(victim);
    let survivors: Vec<usize> = (0..3).filter(|&worker| worker != victim).collect();
    for &survivor in &survivors {
        let verdict = cluster.verdict(survivor);
        let held = matches!(&verdict, Verdict::Collective { step: Some(step), .. } if *step >= at);
        assert!(held, "{verdict:?}, victim {victim} at {at}");
    }
    cluster.assign(&survivors, &Plan::default());
    assert_eq!(cluster.digest(&survivors), expected, "victim {victim} at {at}");
    let steps: Vec<u64> = cluster.log(survivors[0]).iter().map(|line| line.step).collect();
    assert!(steps.windows(2).all(|pair| pair[1] <= pair[0] + 1), "no step is lost: {steps:?}");
}

#[test]
fn a_dead_peer_is_seen_in_the_middle_of_a_step() {
    for mode in ["exact", "fast"] {
        let mut cluster = Cluster::new(&pretraining(&format!("[reduce]\nmode = \"{mode}\"")), 2);
        cluster.assign(&[0, 1], &Plan { dies_in_computation: Some(1), ..Plan::default() });
        cluster.bury(1);
        let message = "the group failed: a peer closed its connection".to_owned();
        assert_eq!(cluster.verdict(0), Verdict::Collective { step: Some(0), message }, "{mode}");
    }
}

#[test]
fn a_step_whose_evaluation_failed_is_evaluated_and_saved_by_the_next_generation() {
    let config = pretraining("").replace("every_steps = 0", "every_steps = 15");
    let (expected, undisturbed) = undisturbed(&config, 1);
    let mut cluster = Cluster::new(&config, 2);
    cluster.assign(&[0, 1], &Plan { dies_in_evaluation: Some(1), ..Plan::default() });
    let verdict = cluster.verdict(0);
    assert!(matches!(verdict, Verdict::Collective { step: Some(15), .. }), "{verdict:?}");
    cluster.assign(&[0], &Plan::default());
    assert_eq!(cluster.digest(&[0]), expected);
    let read = |cluster: &Cluster| {
        let mut files = process::read(&cluster.checkpoint(15)).files;
        files.remove("state.json"); // holds the digest of a config that names the test's folder
        files
    };
    assert_eq!(read(&cluster), read(&undisturbed));
    let evaluated = |cluster: &Cluster| {
        let log = cluster.log(0).into_iter().filter(|line| line.step == 15);
        log.flat_map(|line| line.metrics).find(|(name, _)| name == "eval/loss").map(|(_, value)| value)
    };
    assert!(evaluated(&cluster).is_some() && evaluated(&cluster) == evaluated(&undisturbed));
}

#[test]
fn a_joiner_gets_the_state_from_a_peer() {
    let config = pretraining("[optimizer]\nkind = \"muon\"");
    let (expected, _) = undisturbed(&config, 1);
    let mut cluster = Cluster::new(&config, 1);
    cluster.assign(&[0], &Plan { pause_after: Some(7), ..Plan::default() });
    let joiner = cluster.add_worker();
    assert_eq!(cluster.verdict(0), Verdict::Paused(7));
    // The joiner is rank 0: the source is who holds the state, not who comes first.
    cluster.assign(&[joiner, 0], &Plan::default());
    assert_eq!(cluster.digest(&[joiner, 0]), expected);
    assert_eq!(cluster.log(joiner)[0].step, 8);
}

#[test]
fn a_joiner_does_not_know_the_order_of_buckets_that_the_others_have_learned() {
    let config = in_buckets(6);
    let (expected, _) = undisturbed(&config, 1);
    let mut cluster = Cluster::new(&config, 2);
    cluster.assign(&[0, 1], &Plan { pause_after: Some(3), ..Plan::default() });
    let joiner = cluster.add_worker();
    assert_eq!([cluster.verdict(0), cluster.verdict(1)], [Verdict::Paused(3), Verdict::Paused(3)]);
    cluster.assign(&[0, joiner, 1], &Plan::default());
    assert_eq!(cluster.digest(&[0, joiner, 1]), expected);
}

#[test]
fn a_checkpoint_of_two_workers_resumes_with_one_or_three() {
    for optimizer in ["adamw", "lamb", "muon"] {
        let config = pretraining(&format!("[optimizer]\nkind = \"{optimizer}\""));
        let (expected, _) = undisturbed(&config, 1);
        let mut first = Cluster::new(&config, 2);
        first.assign(&[0, 1], &Plan { pause_after: Some(11), ..Plan::default() });
        assert_eq!([first.verdict(0), first.verdict(1)], [Verdict::Paused(11), Verdict::Paused(11)]);
        let checkpoint = first.checkpoint(11);
        for workers in [1, 3] {
            let mut second = Cluster::new(&config, workers);
            let members: Vec<usize> = (0..workers).collect();
            second.assign(&members, &Plan { attempt: 1, restore: Some(checkpoint.clone()), ..Plan::default() });
            assert_eq!(second.digest(&members), expected, "{optimizer}, {workers} workers");
            assert_eq!(second.log(0)[0].step, 12);
        }
    }
}

#[test]
fn state_of_an_older_attempt_is_not_used() {
    let config = pretraining("");
    let mut cluster = Cluster::new(&config, 2);
    cluster.assign(&[0], &Plan { pause_after: Some(3), ..Plan::default() });
    assert_eq!(cluster.verdict(0), Verdict::Paused(3));
    // Attempt 1 starts again from nothing, although worker 0 still holds step 3 of attempt 0.
    cluster.assign(&[0, 1], &Plan { attempt: 1, ..Plan::default() });
    cluster.digest(&[0, 1]);
    assert_eq!(cluster.log(1)[0].step, 1);
}

#[test]
fn a_damaged_checkpoint_is_refused_with_its_file() {
    let config = pretraining("");
    let mut cluster = Cluster::new(&config, 1);
    cluster.assign(&[0], &Plan { pause_after: Some(2), ..Plan::default() });
    assert_eq!(cluster.verdict(0), Verdict::Paused(2));
    let checkpoint = cluster.checkpoint(2);
    for (file, contents, expected) in [
        ("optimizer-0-of-1.safetensors", Some(&b"\x08\0\0\0\0\0\0\0{\"a\":1}}"[..]), "optimizer-0-of-1.safetensors"),
        ("optimizer-0-of-1.safetensors", None, "`exp_avg."),
        ("state.json", Some(b"{}"), "state.json"),
        ("model.safetensors", None, "no model.safetensors"),
    ] {
        let path = checkpoint.join(file);
        let good = std::fs::read(&path).unwrap();
        match contents {
            Some(contents) => std::fs::write(&path, contents).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        cluster.assign(&[0], &Plan { attempt: 1, restore: Some(checkpoint.clone()), ..Plan::default() });
        let Verdict::Fatal(reason) = cluster.verdict(0) else { panic!("{file} was accepted") };
        assert!(reason.contains(expected), "{reason}");
        std::fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_source_that_cannot_be_read_here_is_this_workers_failure() {
    for (reason, local) in [("unreadable", true), ("corrupt", false)] {
        let mut cluster = Cluster::new(&pretraining(""), 0);
        cluster.make_unreadable(reason);
        let worker = cluster.add_worker();
        cluster.assign(&[worker], &Plan::default());
        match cluster.verdict(worker) {
            Verdict::Local(message) if local => assert!(message.contains("input/output error"), "{message}"),
            Verdict::Fatal(message) if !local => assert!(message.contains("input/output error"), "{message}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[test]
fn a_flipped_bit_is_found_and_the_odd_one_takes_the_state_of_the_others() {
    let config = pretraining("[recovery]\nverify_every = 5");
    let mut cluster = Cluster::new(&config, 3);
    cluster.assign(&[0, 1, 2], &Plan { pause_after: Some(7), ..Plan::default() });
    for worker in 0..3 {
        assert_eq!(cluster.verdict(worker), Verdict::Paused(7));
    }
    cluster.assign(&[0, 1, 2], &Plan { flips_a_bit: Some(0), ..Plan::default() });
    let verdict = cluster.verdict(0);
    let Verdict::Corrupted(message) = &verdict else { panic!("{verdict:?}") };
    assert!(message.contains("rank 0 after step 10"), "{message}");
    cluster.kill(0);
    for worker in [1, 2] {
        let verdict = cluster.verdict(worker);
        assert!(matches!(verdict, Verdict::Collective { step: Some(10), .. }), "{verdict:?}");
    }
    // What a new process in its place does.
    let healed = cluster.add_worker();
    cluster.assign(&[1, healed, 2], &Plan::default());
    // All three end with the same bits. They are not those of an undisturbed run: what the odd one computed before it
    // was found is in the sums.
    cluster.digest(&[1, healed, 2]);
}

#[test]
fn a_flipped_bit_reaches_no_checkpoint() {
    // Far from any comparison for its own sake: at a checkpoint that is due, and at the last step.
    for (every, found) in [(5, 5), (0, 30)] {
        let config = pretraining("[recovery]\nverify_every = 100").replacen(
            "[checkpoint]\nevery_steps = 0",
            &format!("[checkpoint]\nevery_steps = {every}"),
            1,
        );
        let mut cluster = Cluster::new(&config, 3);
        cluster.assign(&[0, 1, 2], &Plan { pause_after: Some(2), ..Plan::default() });
        for worker in 0..3 {
            assert_eq!(cluster.verdict(worker), Verdict::Paused(2));
        }
        cluster.assign(&[0, 1, 2], &Plan { flips_a_bit: Some(0), ..Plan::default() });
        let verdict = cluster.verdict(0);
        let Verdict::Corrupted(message) = &verdict else { panic!("{verdict:?}") };
        assert!(message.contains(&format!("rank 0 after step {found}")), "{message}");
        // Its share is missing, so the checkpoint is never complete.
        for file in ["model.safetensors", "state.json", "optimizer-0-of-3.safetensors"] {
            assert!(!cluster.checkpoint(found).join(file).exists(), "{file} of what differs is stored");
        }
    }
}

#[test]
fn two_that_differ_do_not_know_who_is_right() {
    let config = pretraining("[recovery]\nverify_every = 5");
    let mut cluster = Cluster::new(&config, 2);
    cluster.assign(&[0, 1], &Plan { pause_after: Some(2), ..Plan::default() });
    for worker in [0, 1] {
        assert_eq!(cluster.verdict(worker), Verdict::Paused(2));
    }
    cluster.assign(&[0, 1], &Plan { flips_a_bit: Some(1), ..Plan::default() });
    for worker in [0, 1] {
        let verdict = cluster.verdict(worker);
        assert!(matches!(&verdict, Verdict::Diverged { step: 5, skipped: false, .. }), "{verdict:?}");
    }
}

#[test]
fn a_last_checkpoint_that_is_made_again_keeps_its_score() {
    let (digest, mut cluster) = undisturbed(&pretraining(""), 2);
    let measured = cluster.measured(30);
    assert_eq!(measured, [cluster.metric(0, "eval/loss"); 2]);
    // A member that was not there at the evaluation writes it.
    let joiner = cluster.add_worker();
    cluster.assign(&[joiner, 1], &Plan::default());
    assert_eq!(cluster.digest(&[joiner, 1]), digest);
    assert_eq!(cluster.measured(30), measured);
}
