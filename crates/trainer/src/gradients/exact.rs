//! `exact` mode: fixed-point sums, sent bucket by bucket while the last backward pass goes on.
//!
//! A bucket is a piece of the accumulator. Once this member has nothing more for it, a thread beside the backward pass
//! adds it up with the others' ([`ProcessGroup::reduce_scatter_sum`]), so that the network works while the processor
//! does. All members send the same buckets in the same order. It begins with the order of the parameters' names; from a
//! generation's second step on it is the one in which they became ready on rank 0 in the first.

use super::{Local, Work, contributions, loss_of};
use crate::host::Phase;
use crate::losses::Tally;
use crate::state::State;
use crate::step::Context;
use crate::tensors::to_i64;
use c10d::{GroupError, ProcessGroup};
use kernels::fixed_point::{self, Turn};
use std::iter::repeat_n;
use std::ops::Range;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Instant;
use tch::{Device, Tensor};

/// 8 MiB.
const BUCKET_ELEMENTS: usize = 1 << 20;
/// A member's part of a bucket is 256 KiB at least, if that makes the bucket larger: there is a message for each.
const PART_ELEMENTS: usize = 1 << 15;

pub struct ExactReduction {
    /// The parameters, in the order in which they lie in the accumulator.
    layout: Vec<usize>,
    buckets: Vec<Bucket>,
    /// Of each bucket, the elements whose sums this member has.
    parts: Vec<Range<i64>>,
    order: Order,
}

/// Neighbours in the accumulator.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bucket {
    elements: Range<i64>,
    /// How many parameters lie in it.
    parameters: usize,
}

/// What decides about the order of buckets.
enum Order {
    /// Nothing does any more, or it does not matter.
    Kept,
    /// The next step's backward pass.
    ToLearn,
    /// The parameters as they became ready; rank 0's order counts.
    Learned(Vec<i64>),
}

impl ExactReduction {
    /// For one generation, whose members may have had other orders before.
    pub fn new(state: &mut State, group: &ProcessGroup) -> Self {
        let in_order_of_names = (0..state.parameters.len()).collect();
        let mut reduction = Self::with_layout(in_order_of_names, state, group);
        if group.world() > 1 && reduction.buckets.len() > 1 {
            reduction.order = Order::ToLearn;
        }
        reduction
    }

    fn with_layout(layout: Vec<usize>, state: &mut State, group: &ProcessGroup) -> Self {
        state.buffers.lay_out(&state.parameters, &layout);
        let sizes = layout.iter().map(|&parameter| state.parameters[parameter].tensor.numel());
        // By the group's device, which is the same for all members, whatever they compute on.
        let least = match group.device() {
            Device::Cpu => BUCKET_ELEMENTS.max(PART_ELEMENTS * group.world() as usize),
            // NCCL's collectives come after the pass, each waited for: the fewer the better.
            _ => usize::MAX,
        };
        let buckets = fill(sizes, least);
        Self { layout, buckets, parts: Vec::new(), order: Order::Kept }
    }

    /// Takes over the order that rank 0 has learned.
    pub fn next(self, state: &mut State, group: &ProcessGroup) -> Result<Self, GroupError> {
        let Order::Learned(order) = &self.order else { return Ok(self) };
        let order = Tensor::from_slice(order);
        group.broadcast(&order, 0)?;
        Ok(Self::with_layout(to_i64(&order).into_iter().map(|parameter| parameter as usize).collect(), state, group))
    }

    /// Every micro-batch's gradients into the fixed-point accumulator, whatever it held before.
    pub fn compute(&mut self, context: &Context<'_>, state: &mut State, work: Work<'_>) -> Result<Local, GroupError> {
        let &Context { config, losses, group, host, device, .. } = context;
        let began = Instant::now();
        let mut local = Local { overflows: 0, tally: Tally::new(losses.len()), seconds: 0.0 };
        let accumulator = state.buffers.accumulator(&state.parameters, device);
        let leaves: Vec<&Tensor> = self.layout.iter().map(|&index| &state.parameters[index].tensor).collect();
        let offsets: Vec<usize> = self.layout.iter().map(|&index| state.buffers.offsets[index]).collect();
        let bits = config.reduce.fraction_bits;
        let last = work.micro_batches().count();
        assert!(last > 0, "a member has samples in every step");
        let mut turn = Turn::First;
        for (number, micro_batch) in (1..).zip(work.micro_batches()) {
            group.check()?;
            let (loss, sums) = loss_of(context, state, state.header.step, micro_batch, (losses, work.targets));
            let mut pass = |done: &mut dyn FnMut(usize)| {
                local.overflows += fixed_point::backward(&loss, &leaves, &offsets, &accumulator, bits, turn, done);
                local.tally.add(&sums, contributions(config));
                host.moved();
                if number == last {
                    local.seconds = began.elapsed().as_secs_f64();
                    host.phase(Phase::Reduce);
                }
            };
            if number == last {
                self.reduce_during(group, &accumulator, pass)?;
            } else {
                pass(&mut |_| ());
            }
            turn = Turn::Later;
        }
        Ok(local)
    }

    /// Adds up each bucket over the members as soon as `pass` has nothing more for it. The pass tells of each parameter, once,
    /// that it is done, by its place in the layout.
    fn reduce_during(
        &mut self,
        group: &ProcessGroup,
        accumulator: &Tensor,
        pass: impl FnOnce(&mut dyn FnMut(usize)),
    ) -> Result<(), GroupError> {
        let layout = &self.layout;
        let mut seen = Vec::with_capacity(layout.len());
        let mut see = |place: usize| seen.push(layout[place] as i64);
        self.parts = if group.world() > 1 && accumulator.device() == Device::Cpu {
            let sums = accumulator.shallow_clone();
            thread::scope(|scope| {
                let (sender, ready) = sync_channel::<Range<i64>>(self.buckets.len());
                let reduce_all = move || -> Result<Vec<_>, GroupError> {
                    ready.into_iter().map(|bucket| reduce(group, &sums, bucket)).collect()
                };
                // Where there is no room for a thread, only a new process can help.
                let reducing = thread::Builder::new()
                    .name("reduction".to_owned())
                    .spawn_scoped(scope, reduce_all)
                    .unwrap_or_else(|error| panic!("cannot start the thread that adds up gradients: {error}"));
                let mut progress = Progress::new(&self.buckets, sender);
                pass(&mut |place| {
                    see(place);
                    progress.done(place);
                });
                assert_eq!(progress.next, self.buckets.len(), "the pass has told of every parameter");
                drop(progress);
                reducing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?
        } else {
            pass(&mut see);
            let buckets = self.buckets.iter().map(|bucket| reduce(group, accumulator, bucket.elements.clone()));
            buckets.collect::<Result<_, _>>()?
        };
        if matches!(self.order, Order::ToLearn) {
            self.order = Order::Learned(seen);
        }
        Ok(())
    }

    /// Leaves the gradients of the global batch in the state's buffers. What the sums of 64 bits are rounded to is all
    /// that goes to everybody.
    pub fn finish(&self, context: &Context<'_>, state: &mut State) -> Result<(), GroupError> {
        let &Context { config, group, device, .. } = context;
        let accumulator = state.buffers.accumulator(&state.parameters, device);
        let flat = state.buffers.flat_gradients(&state.parameters, device);
        let part = |elements: &Range<i64>| flat.narrow(0, elements.start, elements.end - elements.start);
        // In the order of the elements: they take the place of sums before them.
        for own in &self.parts {
            fixed_point::to_float(&accumulator, own.start as usize, &part(own), config.reduce.fraction_bits);
        }
        group.all_gather(&self.buckets.iter().map(|bucket| part(&bucket.elements)).collect::<Vec<_>>())
    }
}

/// Adds up one bucket; afterwards this member has the sums of the elements that are returned.
fn reduce(group: &ProcessGroup, accumulator: &Tensor, bucket: Range<i64>) -> Result<Range<i64>, GroupError> {
    let own = group.reduce_scatter_sum(&accumulator.narrow(0, bucket.start, bucket.end - bucket.start))?;
    Ok(bucket.start + own.start..bucket.start + own.end)
}

/// Parameters of these sizes in buckets of at least `least` elements each, but for the last.
fn fill(sizes: impl Iterator<Item = usize>, least: usize) -> Vec<Bucket> {
    let has_room = |bucket: &&mut Bucket| ((bucket.elements.end - bucket.elements.start) as usize) < least;
    let mut buckets: Vec<Bucket> = Vec::new();
    let mut end = 0;
    for size in sizes {
        let start = end;
        end += size as i64;
        if let Some(bucket) = buckets.last_mut().filter(has_room) {
            bucket.elements.end = end;
            bucket.parameters += 1;
        } else {
            buckets.push(Bucket { elements: start..end, parameters: 1 });
        }
    }
    buckets
}

/// Hands on buckets that are ready, in their order.
struct Progress<'a> {
    buckets: &'a [Bucket],
    /// The bucket of each place in the layout.
    bucket_of: Vec<usize>,
    /// Parameters of each bucket that are not done.
    open: Vec<usize>,
    /// The first bucket that is not handed on.
    next: usize,
    ready: SyncSender<Range<i64>>,
}

impl<'a> Progress<'a> {
    fn new(buckets: &'a [Bucket], ready: SyncSender<Range<i64>>) -> Self {
        let places = buckets.iter().enumerate().flat_map(|(index, bucket)| repeat_n(index, bucket.parameters));
        let open = buckets.iter().map(|bucket| bucket.parameters).collect();
        Self { buckets, bucket_of: places.collect(), open, next: 0, ready }
    }

    /// The parameter at this place in the layout is done.
    fn done(&mut self, place: usize) {
        self.open[self.bucket_of[place]] -= 1;
        while self.open.get(self.next) == Some(&0) {
            // Never full. Nobody listens any more after an error, which is told at the end.
            let _ = self.ready.send(self.buckets[self.next].elements.clone());
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::state;
    use c10d::{Backend, GroupOptions, MemoryStore};
    use std::sync::Arc;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn buckets_are_filled_in_order_and_handed_on_in_order() {
        let buckets = fill([3, 4, 10, 1, 1, 9, 2].into_iter(), 6);
        let bucket = |elements, parameters| Bucket { elements, parameters };
        assert_eq!(buckets, [bucket(0..7, 2), bucket(7..17, 1), bucket(17..28, 3), bucket(28..30, 1)]);
        assert_eq!(fill([3, 4].into_iter(), usize::MAX), [bucket(0..7, 2)]);
        assert_eq!(fill([].into_iter(), 6), []);

        let (sender, ready) = sync_channel(buckets.len());
        let mut progress = Progress::new(&buckets, sender);
        let mut after = |place| {
            progress.done(place);
            ready.try_iter().collect::<Vec<_>>()
        };
        assert_eq!(after(2), [], "the first bucket comes first");
        assert_eq!(after(1), []);
        assert_eq!(after(0), [0..7, 7..17]);
        assert_eq!(after(6), []);
        assert_eq!(after(5), []);
        assert_eq!(after(3), []);
        assert_eq!(after(4), [17..28, 28..30]);
    }

    /// What two members of a group come to.
    fn members<T: Send>(act: impl Fn(&ProcessGroup) -> T + Sync) -> [T; 2] {
        let store = Arc::new(MemoryStore::new());
        thread::scope(|scope| {
            let member = |rank| {
                let (store, act) = (store.clone(), &act);
                scope.spawn(move || {
                    let address = "127.0.0.1".to_owned();
                    let options = GroupOptions { rank, world: 2, timeout: PATIENCE, address };
                    let group = ProcessGroup::new(Backend::Gloo, store, options).unwrap();
                    let result = act(&group);
                    group.barrier().unwrap();
                    result
                })
            };
            [member(0), member(1)].map(|member| member.join().unwrap())
        })
    }

    #[test]
    fn members_take_over_the_order_that_rank_0_has_learned() {
        let layouts = members(|group| {
            let mut state = state(None);
            let mut reduction = ExactReduction::new(&mut state, group);
            let sizes: Vec<usize> = state.parameters.iter().map(|parameter| parameter.tensor.numel()).collect();
            let count = sizes.len() as i64;
            assert_eq!(state.buffers.offsets[1], sizes[0], "at first in the order of names");
            let learned = (0..count).map(|index| (index + 1 + i64::from(group.rank())) % count).collect();
            reduction.order = Order::Learned(learned);
            let reduction = reduction.next(&mut state, group).unwrap();
            assert!(matches!(reduction.order, Order::Kept));
            assert_eq!((state.buffers.offsets[1], state.buffers.offsets[2]), (0, sizes[1]));
            assert_eq!(reduction.buckets.last().unwrap().elements.end, sizes.iter().sum::<usize>() as i64);
            reduction.layout
        });
        let count = layouts[0].len();
        assert_eq!(layouts[0], (1..count).chain([0]).collect::<Vec<_>>());
        assert_eq!(layouts[0], layouts[1]);
    }

    #[test]
    fn a_bucket_is_added_up_while_the_pass_goes_on() {
        let results = members(|group| {
            let mut reduction = ExactReduction {
                layout: vec![0, 1],
                buckets: fill([2, 4].into_iter(), 1),
                parts: Vec::new(),
                order: Order::ToLearn,
            };
            let sums = Tensor::from_slice(&[1_i64, 2, 3, 4, 5, 6]);
            let pass = |done: &mut dyn FnMut(usize)| {
                done(0);
                let began = Instant::now();
                while group.collectives() == 0 {
                    assert!(began.elapsed() < PATIENCE, "the first bucket is not sent");
                    thread::sleep(Duration::from_millis(1));
                }
                done(1);
            };
            reduction.reduce_during(group, &sums, pass).unwrap();
            assert!(matches!(&reduction.order, Order::Learned(order) if *order == [0, 1]));
            let of_part = |part: &Range<i64>| to_i64(&sums.narrow(0, part.start, part.end - part.start));
            (reduction.parts.clone(), reduction.parts.iter().map(of_part).collect::<Vec<_>>())
        });
        assert_eq!(results[0], (vec![0..1, 2..4], vec![vec![2], vec![6, 8]]));
        assert_eq!(results[1], (vec![1..2, 4..6], vec![vec![4], vec![10, 12]]));
    }
}
