//! `coordinator sweep`

use super::args::{Connection, NamedSweepArguments, SubmitSweepArguments, SweepArguments, SweepCommand};
use super::client::Client;
use super::problem::Problem;
use super::{output, run_view, sweep_view};
use config::{CheckedConfig, Override};
use proto::v1;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use toml::{Table, Value};

/// Between two looks at a sweep that is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a coordinator may be away before waiting ends.
const AWAY: Duration = Duration::from_secs(60);

pub async fn run(connection: &Connection, arguments: SweepArguments) -> Result<ExitCode, Problem> {
    match arguments.command {
        SweepCommand::Submit(SubmitSweepArguments { file, seeds, folds, vary, mut set, wait, json }) => {
            refuse_twice(&vary)?;
            let number = |key: &str, value: u32| Override { key: key.to_owned(), value: Value::Integer(value.into()) };
            set.extend(vary);
            set.extend(seeds.map(|seeds| number("sweep.seeds", seeds)));
            set.extend(folds.map(|folds| number("sweep.folds", folds)));
            let checked = config::load_checked(&file, &set)?;
            if checked.sweep.is_none() {
                return Err(Problem::input(format!("{}: there is nothing to sweep over", file.display()))
                    .help("give --seeds, --folds or --vary, or a [sweep] section in the file"));
            }
            submit(&Client::connect(connection).await?, &checked, &file, wait, json).await
        }
        SweepCommand::List(flag) => {
            let client = Client::connect(connection).await?;
            let sweeps = client.sweeps().list(v1::ListSweepsRequest {}).await?.into_inner().sweeps;
            if flag.json {
                sweeps.iter().try_for_each(|sweep| output::json(&sweep_view::listed(sweep)))?;
            } else {
                sweep_view::table(&sweeps)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        SweepCommand::Show(NamedSweepArguments { name, json }) => {
            let client = Client::connect(connection).await?;
            show(&client.sweeps().show(v1::SweepRequest { name }).await?.into_inner(), json)?;
            Ok(ExitCode::SUCCESS)
        }
        SweepCommand::Cancel(NamedSweepArguments { name, json }) => {
            let client = Client::connect(connection).await?;
            let sweep = client.sweeps().cancel(v1::SweepRequest { name }).await?.into_inner();
            if json {
                output::json(&sweep_view::sweep(&sweep))?;
            } else {
                output::message(&sweep_view::cancelled(&sweep));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The second would count alone.
fn refuse_twice(vary: &[Override]) -> Result<(), Problem> {
    let is_known = |(at, it): &(usize, &Override)| vary[..*at].iter().any(|earlier| earlier.key == it.key);
    let Some((_, twice)) = vary.iter().enumerate().find(is_known) else { return Ok(()) };
    let key = twice.key.trim_start_matches("sweep.vary.");
    Err(Problem::usage(format!("--vary {key} is given twice"))
        .help(format!("give all of its values at once: --vary {key}=VALUE,VALUE")))
}

/// Submits a config with a `[sweep]`.
pub async fn submit(
    client: &Client,
    checked: &CheckedConfig,
    file: &Path,
    wait: bool,
    json: bool,
) -> Result<ExitCode, Problem> {
    // What is wrong with one of the combinations is told without the coordinator.
    checked.sweep_points(&file.display().to_string())?;
    let request = v1::SubmitSweepRequest { config: config::to_toml(checked) };
    let sweep = client.sweeps().submit(request).await?.into_inner();
    if json {
        output::json(&sweep_view::submitted(&sweep))?;
    } else {
        super::submit::warn(&sweep.warnings);
        output::line(&sweep.name)?;
    }
    if !json && (sweep.known || !wait) {
        let done = if sweep.known { "was there already, with" } else { "queued:" };
        let (name, runs) = (&sweep.name, sweep_view::runs(&sweep));
        let more = format!("; `coordinator sweep show {name}` shows how far they are");
        output::message(&format!("{done} {runs}{}", if wait { "" } else { more.as_str() }));
    }
    if !wait {
        return Ok(ExitCode::SUCCESS);
    }
    let ended = follow(client, &sweep.name).await?;
    show(&ended, json)?;
    match sweep_view::verdict(&ended) {
        None => Ok(ExitCode::SUCCESS),
        Some(verdict) => Err(Problem::failure(verdict).help("`coordinator runs show RUN` tells more of each")),
    }
}

/// The sweep once all of its runs have ended; says on stderr how far it is whenever that has changed.
async fn follow(client: &Client, name: &str) -> Result<v1::Sweep, Problem> {
    let mut away: Option<Instant> = None;
    let mut told = String::new();
    loop {
        let asked = client.sweeps().show(v1::SweepRequest { name: name.to_owned() }).await.map_err(Problem::from);
        match asked {
            Ok(sweep) => {
                away = None;
                let sweep = sweep.into_inner();
                let progress = sweep_view::progress(&sweep);
                if progress != told {
                    output::message(&progress);
                    told = progress;
                }
                if sweep.runs.iter().all(|run| run_view::has_ended(&run.status)) {
                    return Ok(sweep);
                }
            }
            Err(problem) if problem.may_pass() && away.is_none_or(|since| since.elapsed() < AWAY) => {
                away.get_or_insert_with(Instant::now);
            }
            Err(problem) => return Err(problem),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn show(sweep: &v1::Sweep, json: bool) -> std::io::Result<()> {
    if json { output::json(&sweep_view::sweep(sweep)) } else { sweep_view::print(sweep) }
}

/// `KEY=VALUE,VALUE`: values of TOML, or else texts.
pub fn varied(text: &str) -> Result<Override, String> {
    let (key, raw) = text.split_once('=').ok_or_else(|| format!("`{text}`: write `key=value,value`"))?;
    let key = key.trim();
    if key.split('.').any(str::is_empty) {
        return Err(format!("`{text}`: `{key}` is no dotted key such as `optimizer.learning_rate`"));
    }
    let parse =
        |raw: &str| toml::from_str::<Table>(&format!("value = {raw}")).ok().and_then(|mut it| it.remove("value"));
    // As a whole first: commas within quotes and brackets part nothing.
    let whole = parse(&format!("[{raw}]"));
    let is_empty = |value: &str| value.trim().is_empty();
    let lacks_one = match &whole {
        // TOML lets a list end with a comma.
        Some(_) => is_empty(raw) || raw.trim_end().ends_with(','),
        None => raw.split(',').any(is_empty),
    };
    if lacks_one {
        let what = format!("one of the values of `{key}` is empty");
        return Err(format!("`{text}`: {what}: leave out its comma, or write \"\" for an empty text"));
    }
    let values = whole.unwrap_or_else(|| {
        let each = raw.split(',').map(|value| parse(value).unwrap_or_else(|| Value::String(value.trim().to_owned())));
        Value::Array(each.collect())
    });
    Ok(Override { key: format!("sweep.vary.{key}"), value: values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_toml_or_text() {
        let read = |text: &str| varied(text).map(|it| format!("{} {}", it.key, it.value));
        assert_eq!(read("run.steps=10,20").unwrap(), "sweep.vary.run.steps [10, 20]");
        assert_eq!(read("a.b=mean,cls").unwrap(), r#"sweep.vary.a.b ["mean", "cls"]"#);
        assert_eq!(read("a.b=1e-4,x").unwrap(), r#"sweep.vary.a.b [0.0001, "x"]"#);
        assert_eq!(read(r#"data.paths=["a,b"],["c"]"#).unwrap(), r#"sweep.vary.data.paths [["a,b"], ["c"]]"#);
        assert!(read("run.steps").unwrap_err().contains("key=value,value"));
        assert!(read("run..steps=1").unwrap_err().contains("no dotted key"));
    }

    #[test]
    fn an_empty_value_is_refused_unless_it_is_meant() {
        for text in ["a.b=1e-5,", "a.b=1e-5, ", "a.b=", "a.b=,1", "a.b=mean,", "a.b=mean,,cls", r#"a.b=["x"],"#] {
            let told = varied(text).unwrap_err();
            assert!(told.contains(&format!("`{text}`: one of the values of `a.b` is empty")), "{told}");
        }
        for text in [r#"a.b="","x""#, r#"a.b="x,,y,""#, r#"a.b=["x",],["y"]"#] {
            assert!(varied(text).is_ok(), "{text}");
        }
    }
}
