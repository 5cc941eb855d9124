//! Thousands of workers in one process: each has a real session, registers, beats once a second, and reports the steps
//! of the run that it is assigned. It computes nothing.

use super::wire::{self, Coordinator, Report};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use proto::v1::coordinator_message::Kind;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use types::Digest;

const BEAT: Duration = Duration::from_secs(1);
/// As in `worker`: how long rank 1 waits for others to say what the slots used, by what that grows with each doubling of
/// the rank, and the longest wait.
const TURN: (f64, f64, f64) = (0.3, 1.6, 8.0);
/// Connections that are opened at the same time.
const CONNECTING: usize = 100;
/// Nothing takes as long.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// All workers, and what they were told.
pub struct Fleet {
    coordinator: Coordinator,
    runs: Mutex<BTreeMap<String, Arc<Run>>>,
    workers: Mutex<Vec<CancellationToken>>,
    /// What ended a session that should not have ended.
    broken: Mutex<Option<String>>,
}

/// A run as its members know it.
pub struct Run {
    pub id: String,
    order: watch::Sender<Order>,
    assigned: watch::Sender<Assigned>,
    /// Members that have sent the present report.
    reported: AtomicUsize,
    position: Mutex<Position>,
}

/// Steps done, and the chain of samples up to there.
#[derive(Clone, Copy, Default)]
struct Position {
    step: u64,
    chain: Digest,
}

/// What the members of a generation are to do now.
#[derive(Clone, Debug)]
enum Order {
    Nothing,
    Report {
        generation: u64,
        report: Report,
    },
    /// The collective of these ranks failed: a peer's connection is gone.
    Fail {
        generation: u64,
        ranks: [u32; 2],
    },
}

/// The newest generation that anybody was assigned.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    pub generation: u64,
    /// By rank: which worker; none as long as it has not heard of it.
    pub holders: Vec<Option<usize>>,
    /// When the last one heard of it.
    pub at: Option<Instant>,
}

impl Assigned {
    pub fn is_whole(&self) -> bool {
        !self.holders.is_empty() && self.holders.iter().all(Option::is_some)
    }

    /// A worker has heard of its place.
    fn hear(&mut self, generation: u64, rank: u32, world: u32, worker: usize, at: Instant) {
        if generation > self.generation {
            *self = Self { generation, holders: vec![None; world as usize], at: None };
        }
        if generation == self.generation
            && let Some(holder) = self.holders.get_mut(rank as usize)
        {
            (*holder, self.at) = (Some(worker), Some(at));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Opens the connections, `sessions` on each, and registers all workers at once. Also answers how long each waited
    /// for its welcome, in seconds.
    pub async fn join(coordinator: Coordinator, workers: usize, sessions: usize) -> Result<(Arc<Self>, Vec<f64>)> {
        let connections: Vec<Channel> = futures::stream::iter(0..workers.div_ceil(sessions))
            .map(|_| coordinator.connect())
            .buffer_unordered(CONNECTING)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_>>()?;
        let (runs, broken) = (Mutex::default(), Mutex::default());
        let fleet = Arc::new(Self { coordinator, runs, workers: Mutex::default(), broken });
        let mut welcomes = Vec::with_capacity(workers);
        for worker in 0..workers {
            let (death, (welcomed, welcome)) = (CancellationToken::new(), oneshot::channel());
            lock(&fleet.workers).push(death.clone());
            welcomes.push(welcome);
            let (fleet, channel) = (Arc::clone(&fleet), connections[worker / sessions].clone());
            tokio::spawn(async move {
                let works = fleet.work(worker, channel, welcomed);
                let ended = tokio::select! {
                    () = death.cancelled() => Ok(()),
                    ended = works => ended,
                };
                if let Err(error) = ended {
                    lock(&fleet.broken).get_or_insert(format!("worker {worker}: {error:#}"));
                }
            });
        }
        // Each has a share of them: a connection ends with the last of its workers.
        drop(connections);
        let mut waited = Vec::with_capacity(workers);
        for welcome in welcomes {
            let welcome = tokio::time::timeout(PATIENCE, welcome).await.context("a worker was not welcomed")?;
            waited.push(welcome.map_err(|_| fleet.trouble())?);
        }
        Ok((fleet, waited))
    }

    fn trouble(&self) -> anyhow::Error {
        anyhow::anyhow!(lock(&self.broken).clone().unwrap_or_else(|| "a session ended".to_owned()))
    }

    /// Fails if a session ended that nobody ended.
    pub fn check(&self) -> Result<()> {
        if lock(&self.broken).is_some() { Err(self.trouble()) } else { Ok(()) }
    }

    /// A run; before anybody was assigned to it, too.
    pub fn run(&self, id: &str) -> Arc<Run> {
        Arc::clone(lock(&self.runs).entry(id.to_owned()).or_insert_with_key(|id| Run::new(id)))
    }

    /// The process is gone, without a word.
    pub fn kill(&self, worker: usize) {
        lock(&self.workers)[worker].cancel();
    }

    /// All of them.
    pub fn end(&self) {
        lock(&self.workers).iter().for_each(CancellationToken::cancel);
    }

    /// One worker, until its session ends.
    async fn work(&self, worker: usize, channel: Channel, welcomed: oneshot::Sender<f64>) -> Result<()> {
        let began = Instant::now();
        let (queue, outgoing) = mpsc::channel(4);
        queue.try_send(wire::register(worker))?;
        let mut incoming = self.coordinator.session(channel, outgoing).await?;
        match incoming.message().await?.and_then(|message| message.kind) {
            Some(Kind::Welcome(_)) => _ = welcomed.send(began.elapsed().as_secs_f64()),
            other => bail!("no welcome but {other:?}"),
        }
        // They do not all beat in the same instant.
        let phase = BEAT.mul_f64(worker as f64 * 0.618_034 % 1.0);
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + phase, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut place: Option<Place> = None;
        loop {
            tokio::select! {
                message = incoming.message() => {
                    let message = message?.and_then(|message| message.kind).context("the session ended")?;
                    if let Some(answer) = self.obey(worker, message, &mut place)? {
                        queue.send(answer).await?;
                    }
                }
                _ = beat.tick() => {
                    if let Some(place) = &place {
                        queue.send(place.beat()).await?;
                    }
                }
                next = next(&mut place) => match next {
                    Next::Add(rest) => queue.send(rest).await?,
                    Next::Follow(order) => {
                        let Some(place) = &mut place else { continue };
                        if let Some(answer) = place.follow(order) {
                            queue.send(answer).await?;
                            place.run.reported.fetch_add(1, Ordering::Release);
                        }
                    }
                },
            }
        }
    }

    fn obey(&self, worker: usize, message: Kind, place: &mut Option<Place>) -> Result<Option<Bytes>> {
        match message {
            Kind::Assign(assign) => {
                let (generation, rank, world) = (assign.generation, assign.rank, assign.world);
                let (run, at) = (self.run(&assign.run), Instant::now());
                let held = place.as_ref().filter(|place| place.run.id == assign.run).map(|place| place.step);
                let step = held.unwrap_or_else(|| run.step());
                // Before we are known to have heard of it: an order may come at once.
                let orders = run.order.subscribe();
                run.assigned.send_modify(|assigned| assigned.hear(generation, rank, world, worker, at));
                let (rests, durable) = (VecDeque::new(), step);
                *place = Some(Place { run, generation, rank, step, orders, rests, durable, moved: at, stopped: false });
            }
            Kind::Abort(abort) => {
                let concerned = place.as_mut().filter(|place| place.generation <= abort.generation && !place.stopped);
                return Ok(concerned.map(|place| place.fail("given up by the coordinator")));
            }
            Kind::Request(request) if request.pause => {
                let concerned = place.as_mut().filter(|place| place.generation == request.generation && !place.stopped);
                return Ok(concerned.map(Place::pause));
            }
            Kind::Committed(committed) => {
                if let Some(place) = place.as_mut().filter(|place| place.run.id == committed.run) {
                    place.durable = committed.step;
                    place.rests.retain(|(_, report)| report.step > committed.step);
                }
            }
            Kind::Release(_) => *place = None,
            Kind::Goodbye(goodbye) => bail!("sent away: {}", goodbye.reason),
            Kind::Welcome(_) | Kind::Request(_) | Kind::Drain(_) => {}
        }
        Ok(None)
    }
}

/// A member's place in a generation.
struct Place {
    run: Arc<Run>,
    generation: u64,
    rank: u32,
    step: u64,
    orders: watch::Receiver<Order>,
    /// What is still to be said of steps that are not known to be durable, and when.
    rests: VecDeque<(Instant, Report)>,
    /// The last step that is known to be.
    durable: u64,
    moved: Instant,
    /// It waits for the next assignment.
    stopped: bool,
}

/// What a member does next of itself.
enum Next {
    Follow(Order),
    /// It says the rest of a report, since nobody else did.
    Add(Bytes),
}

async fn next(place: &mut Option<Place>) -> Next {
    let Some(Place { orders, rests, .. }) = place else { return std::future::pending().await };
    let due = rests.front().map(|(due, _)| tokio::time::Instant::from_std(*due));
    let rest = async {
        match due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = rest => Next::Add(rests.pop_front().map(|(_, report)| report.rest).unwrap_or_default()),
        changed = orders.changed() => match changed {
            Ok(()) => Next::Follow(orders.borrow_and_update().clone()),
            Err(_) => std::future::pending().await,
        },
    }
}

impl Place {
    fn beat(&self) -> Bytes {
        let quiet = u64::try_from(self.moved.elapsed().as_millis()).unwrap_or(u64::MAX);
        wire::heartbeat(&self.run.id, self.generation, self.step, quiet)
    }

    fn fail(&mut self, error: &str) -> Bytes {
        self.stopped = true;
        wire::step_failed(&self.run.id, self.generation, self.step, error)
    }

    fn pause(&mut self) -> Bytes {
        self.stopped = true;
        wire::paused(&self.run.id, self.generation, self.step)
    }

    fn follow(&mut self, order: Order) -> Option<Bytes> {
        match order {
            Order::Report { generation, report } if generation == self.generation && !self.stopped => {
                (self.step, self.moved) = (report.step, Instant::now());
                let Some(turn) = self.rank.checked_ilog2() else { return Some(report.whole) };
                let first = report.first.clone();
                if report.step > self.durable {
                    let (first, growth, longest) = TURN;
                    let wait = (first * growth.powf(f64::from(turn))).min(longest);
                    self.rests.push_back((self.moved + Duration::from_secs_f64(wait), report));
                }
                Some(first)
            }
            Order::Fail { generation, ranks } if generation == self.generation && ranks.contains(&self.rank) => {
                (!self.stopped).then(|| self.fail("connection closed by peer"))
            }
            _ => None,
        }
    }
}

impl Run {
    fn new(id: &str) -> Arc<Self> {
        let (order, assigned) = (watch::Sender::new(Order::Nothing), watch::Sender::new(Assigned::default()));
        let (reported, position) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { id: id.to_owned(), order, assigned, reported, position })
    }

    /// Waits until all members of a generation later than `after` have heard of it.
    pub async fn whole(&self, after: u64) -> Result<Assigned> {
        let mut assigned = self.assigned.subscribe();
        let whole = assigned.wait_for(|assigned| assigned.generation > after && assigned.is_whole());
        let whole = tokio::time::timeout(PATIENCE, whole).await;
        Ok(whole.with_context(|| format!("run {}: no whole generation after {after}", self.id))??.clone())
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        lock(&self.position).step
    }

    /// All members report the next step; done when all have handed their report to the network. Answers a report's
    /// bytes.
    pub async fn advance(&self, slots: u32) -> Result<usize> {
        let Assigned { generation, holders, .. } = self.whole(0).await?;
        let mut position = *lock(&self.position);
        position.step += 1;
        let report = wire::progress(&self.id, generation, position.step, slots, &mut position.chain);
        let bytes = report.whole.len();
        *lock(&self.position) = position;
        self.reported.store(0, Ordering::Release);
        self.order.send_replace(Order::Report { generation, report });
        let all = async {
            while self.reported.load(Ordering::Acquire) < holders.len() {
                ensure!(self.assigned.borrow().generation == generation, "run {}: a member was lost", self.id);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        let reported = tokio::time::timeout(PATIENCE, all).await;
        reported.with_context(|| format!("run {}: step {} is not reported by all", self.id, position.step))??;
        Ok(bytes)
    }

    /// The collective of these ranks fails.
    pub fn fail(&self, generation: u64, ranks: [u32; 2]) {
        self.order.send_replace(Order::Fail { generation, ranks });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_whole_when_every_rank_has_heard_of_it() {
        let mut assigned = Assigned::default();
        assert!(!assigned.is_whole());
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assigned.hear(3, 1, 2, 7, now);
        assert!(!assigned.is_whole());
        // Late news of an earlier one changes nothing.
        assigned.hear(2, 0, 1, 9, later);
        assigned.hear(3, 0, 2, 5, later);
        assert!(assigned.is_whole());
        assert_eq!((assigned.holders.clone(), assigned.at), (vec![Some(5), Some(7)], Some(later)));
        assigned.hear(4, 0, 3, 5, now);
        assert!(!assigned.is_whole() && assigned.generation == 4);
    }

    #[tokio::test]
    async fn a_member_reports_for_its_own_generation_and_fails_once() {
        let run = Run::new("run");
        let (orders, moved) = (run.order.subscribe(), Instant::now());
        let (rests, durable) = (VecDeque::new(), 4);
        let mut place = Place { run, generation: 2, rank: 1, step: 4, orders, rests, durable, moved, stopped: false };
        let [whole, first, rest] = [&b"whole"[..], b"first", b"rest"].map(Bytes::from_static);
        let report = |generation| {
            let report = Report { step: 5, whole: whole.clone(), first: first.clone(), rest: rest.clone() };
            Order::Report { generation, report }
        };
        assert!(place.follow(report(1)).is_none());
        assert_eq!(place.follow(report(2)), Some(first.clone()));
        assert_eq!((place.step, place.rests.len()), (5, 1));
        place.rank = 0;
        assert_eq!(place.follow(report(2)), Some(whole.clone()));
        assert_eq!(place.rests.len(), 1);
        let mut place = Some(place);
        assert!(matches!(next(&mut place).await, Next::Add(said) if said == rest));
        let mut place = place.unwrap();
        place.rank = 1;
        assert!(place.follow(Order::Fail { generation: 2, ranks: [0, 2] }).is_none(), "no neighbour of it");
        assert!(place.follow(Order::Fail { generation: 2, ranks: [0, 1] }).is_some());
        assert!(place.follow(Order::Fail { generation: 2, ranks: [0, 1] }).is_none(), "it has said so");
        assert!(place.follow(report(2)).is_none(), "it waits for its next assignment");
    }
}
