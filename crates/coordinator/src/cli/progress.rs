//! Following a run: a progress line on a terminal, else plain lines every few seconds.

use super::client::Client;
use super::output;
use super::problem::Problem;
use super::run_view;
use config::RunConfig;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::v1;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How long a coordinator may be away before following ends.
const AWAY: Duration = Duration::from_secs(60);

/// What has been shown so far.
struct Follower {
    bar: Option<ProgressBar>,
    json: bool,
    last_line: Option<Instant>,
    last_status: String,
    last_event: Option<v1::RunEvent>,
    // The first step seen of this attempt, and when: what the pace is measured from.
    since: Option<(u32, u64, Instant)>,
    // Of the run, once it was seen; nothing if it cannot be understood here.
    config: Option<Option<RunConfig>>,
}

/// Follows a run until it ends. 0 only if it completed.
pub async fn follow(client: &Client, run: &str, json: bool) -> Result<ExitCode, Problem> {
    let mut follower = Follower::new(json);
    let mut lost: Option<Instant> = None;
    loop {
        let outcome = tokio::select! {
            outcome = follower.watch(client, run, &mut lost) => outcome,
            _ = tokio::signal::ctrl_c() => {
                follower.close();
                return Err(Problem::retry(format!("no longer following; run {run} goes on"))
                    .help(format!("`coordinator runs watch {run}` follows it again, `coordinator runs cancel {run}` stops it")));
            }
        };
        match outcome {
            Ok(Some(run)) => {
                follower.close();
                return finish(&run, json);
            }
            // The stream ended without an end of the run: the coordinator went away in good order.
            Ok(None) => {}
            Err(problem) if problem.may_pass() => {}
            Err(problem) => {
                follower.close();
                return Err(problem);
            }
        }
        let since = *lost.get_or_insert_with(Instant::now);
        if since.elapsed() > AWAY {
            follower.close();
            return Err(Problem::retry(format!(
                "the coordinator has been away for {} s; the run goes on",
                AWAY.as_secs()
            ))
            .help(format!("`coordinator runs watch {run}` follows it again")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The last word, and the only one on why it ended.
fn finish(run: &v1::Run, json: bool) -> Result<ExitCode, Problem> {
    if json {
        output::json(&run_view::run(run))?;
    }
    match run.status.as_str() {
        "completed" => {
            if !json {
                output::message(&completed(run));
            }
            Ok(ExitCode::SUCCESS)
        }
        "cancelled" => Err(cancelled(run)),
        _ => Err(failed(run)),
    }
}

fn completed(run: &v1::Run) -> String {
    let losses: String = losses(run).iter().map(|loss| format!(", {loss}")).collect();
    format!("run {} is completed at step {}{losses}{}", run.id, run_view::steps(run), run_view::reason(run))
}

fn cancelled(run: &v1::Run) -> Problem {
    let kept = run.checkpoints.iter().any(|checkpoint| !checkpoint.damaged);
    let goes_on = if kept { "goes on from its last checkpoint" } else { "starts it again" };
    Problem::failure(format!("run {} was cancelled at step {}", run.id, run_view::steps(run)))
        .help(format!("`coordinator runs resume {}` {goes_on}", run.id))
}

/// A reason that knows what to do brings it along. Of several faults in one, each keeps its help but the last.
fn failed(run: &v1::Run) -> Problem {
    let more = format!("`coordinator runs show {}` tells more", run.id);
    let (reason, help) = match run.reason.rsplit_once(types::HELP) {
        Some((reason, help)) => (reason, format!("{help}; {more}")),
        None => (run.reason.as_str(), more),
    };
    Problem::failure(format!("run {} failed at step {}: {reason}", run.id, run_view::steps(run))).help(help)
}

impl Follower {
    fn new(json: bool) -> Self {
        let colourless = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let bar = (std::io::stderr().is_terminal() && !json).then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let template =
                if colourless { "{bar:24} {pos}/{len} {msg}" } else { "{bar:24.cyan/blue} {pos}/{len} {msg}" };
            bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
            bar
        });
        Self { bar, json, last_line: None, last_status: String::new(), last_event: None, since: None, config: None }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::message(text)),
            None => output::message(text),
        }
    }

    /// Until the run ends (its last snapshot) or the stream does (None).
    async fn watch(
        &mut self,
        client: &Client,
        run: &str,
        lost: &mut Option<Instant>,
    ) -> Result<Option<v1::Run>, Problem> {
        let request = v1::RunRequest { run: run.to_owned() };
        let mut snapshots = client.runs().watch(request).await?.into_inner();
        while let Some(snapshot) = snapshots.message().await? {
            *lost = None;
            self.show(&snapshot)?;
            if run_view::has_ended(&snapshot.status) {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    fn show(&mut self, run: &v1::Run) -> Result<(), Problem> {
        for event in fresh(&run.events, self.last_event.as_ref()).iter().filter(|event| !tells_end(event, run)) {
            self.say(&format!("{}: {}", run.name, event.text));
        }
        self.last_event = run.events.last().cloned().or(self.last_event.take());
        if run_view::has_ended(&run.status) {
            return Ok(());
        }
        let figures = self.figures(run, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_length(run.total_steps);
            bar.set_position(run.step);
            bar.set_message(beside_bar(run, &figures));
            return Ok(());
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due || run.status != self.last_status {
            self.last_line = Some(Instant::now());
            self.last_status.clone_from(&run.status);
            let line = plain_line(run, &figures);
            if self.json {
                output::message(&line);
            } else {
                output::line(&line)?;
            }
        }
        Ok(())
    }

    /// Losses, speed, time left, workers.
    fn figures(&mut self, run: &v1::Run, now: Instant) -> String {
        let mut parts = losses(run);
        if let Some(rate) = value(run, "train/tokens_per_second") {
            parts.push(format!("{rate:.0} tokens/s"));
        }
        let step = run.step;
        match self.since {
            Some((attempt, first, began)) if attempt == run.attempt && step >= first => {
                if step > first && run.status == "running" {
                    let [first, here, end] = [first, step, run.total_steps].map(|step| self.work(run, step));
                    let pace = (now - began).as_secs_f64() / (here - first);
                    parts.push(format!("ETA {}", duration(pace * (end - here).max(0.0))));
                }
            }
            _ => self.since = Some((run.attempt, step, now)),
        }
        parts.push(run_view::counted(run.world_size.into(), "worker"));
        parts.join("  ")
    }

    /// How much is done after so many steps: samples, since a batch may grow; steps where the config is not known.
    fn work(&mut self, run: &v1::Run, step: u64) -> f64 {
        let config = self.config.get_or_insert_with(|| config::parse("the run's config", &run.config).ok());
        config.as_ref().map_or(step as f64, |config| config.batch.samples_until(step, config.run.steps) as f64)
    }
}

/// The newest value of a metric.
fn value(run: &v1::Run, key: &str) -> Option<f64> {
    run.metrics.iter().find(|metric| metric.key == key).map(|metric| metric.value)
}

fn losses(run: &v1::Run) -> Vec<String> {
    let keys = [("train/loss", "loss"), ("eval/loss", "held-out")];
    keys.iter().filter_map(|(key, name)| Some(format!("{name} {:.3}", value(run, key)?))).collect()
}

/// What stands beside a bar, which shows the steps.
fn beside_bar(run: &v1::Run, figures: &str) -> String {
    if run.status == "running" { figures.to_owned() } else { format!("{}{}  {figures}", run.status, why(run)) }
}

/// What is printed where there is no bar.
fn plain_line(run: &v1::Run, figures: &str) -> String {
    format!("{} step {}/{}{}  {figures}", run.status, run.step, run.total_steps, why(run))
}

/// Why it waits.
fn why(run: &v1::Run) -> String {
    if run.status == "running" { String::new() } else { run_view::reason(run) }
}

/// Whether it is what [`finish`] says.
fn tells_end(event: &v1::RunEvent, run: &v1::Run) -> bool {
    run_view::has_ended(&run.status) && event.text == format!("{}{}", run.status, run_view::reason(run))
}

/// The events after the last one that was shown. A snapshot holds the newest only, so their number tells nothing.
fn fresh<'a>(events: &'a [v1::RunEvent], last: Option<&v1::RunEvent>) -> &'a [v1::RunEvent] {
    let seen = last.and_then(|last| events.iter().rposition(|event| event == last));
    seen.map_or(events, |at| &events[at + 1..])
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_loss_speed_time_left_and_workers() {
        let mut follower = Follower::new(true);
        let mut described = |run: &v1::Run, now| beside_bar(run, &follower.figures(run, now));
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let metric = |key: &str, value| v1::Metric { key: key.into(), value, ..v1::Metric::default() };
        let queued = v1::Run { status: "queued".into(), total_steps: 100, ..v1::Run::default() };
        assert_eq!(described(&queued, began), "queued  0 workers");
        let at = |step, attempt| v1::Run {
            status: "running".into(),
            step,
            attempt,
            world_size: 2,
            metrics: vec![
                metric("train/loss", 2.34567),
                metric("eval/loss", 3.0),
                metric("train/tokens_per_second", 1234.56),
            ],
            ..queued.clone()
        };
        let figures = "loss 2.346  held-out 3.000  1235 tokens/s";
        assert_eq!(described(&at(10, 1), after(60)), format!("{figures}  2 workers"), "no pace yet");
        // Two seconds a step, seen from step 10 on.
        assert_eq!(described(&at(20, 1), after(80)), format!("{figures}  ETA 2 min 40 s  2 workers"));
        assert_eq!(described(&at(90, 1), after(220)), format!("{figures}  ETA 20 s  2 workers"));
        // A rewind: the pace is measured anew.
        assert_eq!(described(&at(50, 2), after(300)), format!("{figures}  2 workers"));
        let lost =
            v1::Run { status: "interrupted".into(), reason: "its workers are gone".into(), world_size: 1, ..at(60, 2) };
        let line = described(&lost, after(310));
        assert_eq!(line, format!("interrupted: its workers are gone  {figures}  1 worker"));
        assert_eq!((duration(59.4), duration(3_725.0)), ("59 s".into(), "1 h 2 min".into()));
    }

    #[test]
    fn how_it_ended_is_said_once() {
        let run = v1::Run {
            id: "r".into(),
            status: "failed".into(),
            reason: "alpha: it broke\n  help: mend it".into(),
            step: 3,
            total_steps: 8,
            skipped_steps: 2,
            ..v1::Run::default()
        };
        let mut follower = Follower::new(true);
        follower.show(&run).unwrap();
        assert_eq!(follower.last_line, None, "a line of progress would say it, too");
        let event = |text: &str| v1::RunEvent { time_ms: 1, text: text.into() };
        assert!(tells_end(&event("failed: alpha: it broke\n  help: mend it"), &run));
        assert!(!tells_end(&event("alpha is lost"), &run));
        let told = |run: &v1::Run| {
            let problem = failed(run);
            (problem.to_string(), miette::Diagnostic::help(&problem).map(|help| help.to_string()).unwrap_or_default())
        };
        let (what, help) = told(&run);
        assert_eq!(what, "run r failed at step 3 of 8 (2 steps skipped): alpha: it broke");
        assert_eq!(help, "mend it; `coordinator runs show r` tells more");
        let (_, help) = told(&v1::Run { reason: "alpha: it broke".into(), ..run.clone() });
        assert_eq!(help, "`coordinator runs show r` tells more");
        let two = "line 1: x\n  help: mend x\nline 2: y\n  help: mend y";
        let (what, help) = told(&v1::Run { reason: two.into(), ..run.clone() });
        assert!(what.ends_with(": line 1: x\n  help: mend x\nline 2: y"), "each help under its own fault: {what}");
        assert_eq!(help, "mend y; `coordinator runs show r` tells more");
        let metric = |key: &str, value| v1::Metric { key: key.into(), value, ..v1::Metric::default() };
        let done = v1::Run {
            reason: "stopped early".into(),
            metrics: vec![metric("train/loss", 3.5324), metric("eval/loss", 3.4981)],
            ..run.clone()
        };
        let text = "run r is completed at step 3 of 8 (2 steps skipped), loss 3.532, held-out 3.498: stopped early";
        assert_eq!(completed(&done), text);
        let waits = v1::Run { status: "interrupted".into(), reason: "its workers are gone".into(), ..run };
        assert_eq!(plain_line(&waits, "1 worker"), "interrupted step 3/8: its workers are gone  1 worker");
    }

    #[test]
    fn a_run_without_a_checkpoint_starts_again() {
        let help = |checkpoints: Vec<v1::Checkpoint>| {
            let run = v1::Run { id: "r".into(), status: "cancelled".into(), checkpoints, ..v1::Run::default() };
            miette::Diagnostic::help(&cancelled(&run)).map(|help| help.to_string()).unwrap_or_default()
        };
        let checkpoint = |damaged| v1::Checkpoint { damaged, ..v1::Checkpoint::default() };
        let resume = "`coordinator runs resume r`";
        assert_eq!(help(Vec::new()), format!("{resume} starts it again"));
        assert_eq!(help(vec![checkpoint(true)]), format!("{resume} starts it again"));
        let kept = vec![checkpoint(false), checkpoint(true)];
        assert_eq!(help(kept), format!("{resume} goes on from its last checkpoint"));
    }

    #[test]
    fn the_time_left_knows_of_a_batch_that_grows() {
        let config = "[run]\nname = \"r\"\nkind = \"pretrain\"\nsteps = 100\n[data]\npaths = [\"/c\"]\n[tokenizer]\n\
                      path = \"/t\"\n[batch]\nslots = 1\nmicro_batch = 1\naccumulate = 3\nramp_from = 1\n\
                      ramp_share = 0.5\nsequence_length = 16\n";
        let at = |step| v1::Run {
            status: "running".into(),
            step,
            total_steps: 100,
            config: config.to_owned(),
            ..v1::Run::default()
        };
        let began = Instant::now();
        let mut follower = Follower::new(true);
        follower.figures(&at(0), began);
        // 25 steps of one sample, 25 of two, 50 of three: a second each, so far.
        let line = follower.figures(&at(25), began + Duration::from_secs(25));
        assert!(line.contains("ETA 3 min 20 s"), "{line}");
    }

    #[test]
    fn events_are_shown_once_also_when_the_list_is_full() {
        let event = |number: i64| v1::RunEvent { time_ms: number, text: format!("event {number}") };
        let window = |range: std::ops::Range<i64>| range.map(event).collect::<Vec<_>>();
        assert_eq!(fresh(&window(0..3), None), window(0..3));
        assert_eq!(fresh(&window(0..3), Some(&event(2))), []);
        assert_eq!(fresh(&window(5..205), Some(&event(202))), window(203..205), "the oldest made room");
        assert_eq!(fresh(&window(300..302), Some(&event(9))), window(300..302));
    }
}
