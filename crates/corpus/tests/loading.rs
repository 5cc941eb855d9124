//! Parquet to batches: every kind of column, cursors, slots, held-out units, null rows.
#![allow(clippy::unwrap_used)]

mod shared;

use arrow::array::{
    ArrayRef, DictionaryArray, Int64Builder, LargeListBuilder, LargeStringArray, ListBuilder, StringArray,
    StringViewArray, UInt32Builder,
};
use arrow::datatypes::Int32Type;
use corpus::{Batch, Corpus, Dealt, ErrorKind, Labels, Loader, SlotStep, Tokenizer};
use shared::{config, run, text, tokenizer, write_parquet};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use types::{Cursor, Segment, SlotId, Step};

fn corpus_file(folder: &Path, rows: usize) -> String {
    let texts: StringArray = (0..rows).map(|row| Some(text(row))).collect();
    write_parquet(&folder.join("t.parquet"), &[("text", Arc::new(texts) as ArrayRef)], 40)
}

fn loader(settings: &str, path: &str) -> (Loader, Arc<Corpus>, Arc<Tokenizer>) {
    let config = config(settings, &[path]);
    let corpus = Arc::new(Corpus::open(&config).unwrap());
    let tokenizer = Arc::new(tokenizer());
    (Loader::new(corpus.clone(), tokenizer.clone(), &config), corpus, tokenizer)
}

const MLM: &str = "objective.kind=mlm batch.slots=4 batch.micro_batch=2 batch.accumulate=2 batch.sequence_length=32 data.unit_rows=10";

const FIRST: Step = Step(1);

fn restored(batch: &Batch) -> Vec<i64> {
    let mut ids = batch.ids.clone();
    if let Labels::Masked { positions, ids: labels, .. } = &batch.labels {
        for (at, id) in positions.iter().zip(labels) {
            ids[*at as usize] = *id;
        }
    }
    ids
}

#[test]
fn packed_blocks_have_no_padding_and_are_masked() {
    let folder = tempfile::tempdir().unwrap();
    let (mut loader, _, tokenizer) = loader(MLM, &corpus_file(folder.path(), 100));
    loader.assign(&[(SlotId(1), Cursor::default())]);
    let step = loader.next(SlotId(1), FIRST).unwrap();
    assert_eq!(step.batches.len(), 2);
    for batch in &step.batches {
        assert_eq!((batch.samples, batch.sequence_length, batch.ids.len()), (2, 32, 64));
        assert!(batch.mask.is_none() && batch.segment_ids.is_none());
        assert_eq!(batch.tokens(), 64);
        let Labels::Masked { positions, ids, next_sentence: None, .. } = &batch.labels else {
            panic!("{:?}", batch.labels)
        };
        // round(32 × 0.15) = 5 of each of two samples.
        assert_eq!((positions.len(), ids.len()), (10, 10));
        assert!(positions.windows(2).all(|two| two[0] < two[1]));
        let special = tokenizer.special();
        assert!(batch.ids.contains(&i64::from(special.mask)));
        for sample in restored(batch).chunks(32) {
            assert_eq!((sample[0], sample[31]), (i64::from(special.classify), i64::from(special.separator)));
            assert!(!sample.contains(&i64::from(special.unknown)));
        }
    }
}

#[test]
fn a_step_from_a_cursor_in_the_middle_is_the_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 100);
    let (mut through, corpus, _) = loader(MLM, &path);
    let slots: Vec<SlotId> = (0..4).map(SlotId).collect();
    through.assign(&slots.iter().map(|slot| (*slot, Cursor::default())).collect::<Vec<_>>());
    let mut cursors = BTreeMap::new();
    let mut crossed = false;
    let mut epochs = 0;
    for step in 0..40 {
        let expected: Vec<SlotStep> = slots.iter().map(|slot| through.next(*slot, Step(step + 1)).unwrap()).collect();
        if step % 7 == 0 {
            // Another worker, with other neighbours, in another order.
            let (mut other, _, _) = loader(MLM, &path);
            for (slot, expected) in slots.iter().zip(&expected).rev() {
                other.assign(&[(*slot, cursors.get(slot).copied().unwrap_or_default())]);
                assert_eq!(&other.next(*slot, Step(step + 1)).unwrap(), expected, "step {step}, slot {slot}");
            }
        }
        for (slot, taken) in slots.iter().zip(&expected) {
            crossed |= taken.segments.len() > 1;
            epochs = epochs.max(corpus.plan().deal(*slot, taken.cursor.turn).epoch);
            cursors.insert(*slot, taken.cursor);
        }
    }
    assert!(crossed && epochs >= 2, "units and epochs were crossed: {epochs}");
}

#[test]
fn segments_cover_every_unit_of_every_epoch_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut loader, corpus, _) = loader(MLM, &corpus_file(folder.path(), 100));
    let slots: Vec<SlotId> = (0..4).map(SlotId).collect();
    loader.assign(&slots.iter().map(|slot| (*slot, Cursor::default())).collect::<Vec<_>>());
    let mut used: BTreeMap<(u64, usize), (u64, u64)> = BTreeMap::new();
    for step in 1..=60 {
        for slot in &slots {
            let step = loader.next(*slot, Step(step)).unwrap();
            let samples: u64 = step.segments.iter().map(|segment| segment.end - segment.start).sum();
            assert_eq!(samples, 4);
            for Segment { turn, start, end, total, .. } in step.segments {
                let Dealt { epoch, unit } = corpus.plan().deal(*slot, turn);
                let (next, of) = used.entry((epoch, unit)).or_insert((0, total));
                assert_eq!((*next, *of), (start, total), "no sample twice, none left out");
                *next = end;
            }
        }
    }
    // Slots do not run in step, but nobody is epochs behind: the first two are complete.
    for epoch in 0..2 {
        for unit in 0..corpus.plan().units().len() {
            let (used, total) = used[&(epoch, unit)];
            assert_eq!(used, total, "epoch {epoch}, unit {unit}");
        }
    }
}

#[test]
fn epochs_bring_other_masks_and_another_order() {
    let folder = tempfile::tempdir().unwrap();
    let settings = MLM.replace("slots=4", "slots=1").replace("unit_rows=10", "unit_rows=1000 data.eval_fraction=0");
    let (mut loader, _, _) = loader(&settings, &corpus_file(folder.path(), 40));
    loader.assign(&[(SlotId(0), Cursor::default())]);
    let first = loader.next(SlotId(0), FIRST).unwrap();
    loader.assign(&[(SlotId(0), Cursor { turn: 1, sample: 0 })]);
    assert_ne!(restored(&loader.next(SlotId(0), FIRST).unwrap().batches[0]), restored(&first.batches[0]));
}

#[test]
fn a_batch_that_grows_takes_more_samples_from_where_the_slot_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 100);
    let settings = format!("{MLM} run.steps=12 batch.accumulate=3 batch.ramp_from=1 batch.ramp_share=0.5");
    let (mut grows, _, _) = loader(&settings, &path);
    let (mut flat, _, _) = loader(MLM, &path);
    let (mut samples, mut expected) = (Vec::new(), Vec::new());
    let mut cursor = Cursor::default();
    for loader in [&mut grows, &mut flat] {
        loader.assign(&[(SlotId(0), cursor)]);
    }
    for step in 1..=12 {
        let taken = grows.next(SlotId(0), Step(step)).unwrap();
        // 1 1 1 2 2 2 3 …
        assert_eq!(taken.batches.len() as u64, ((step - 1) / 3 + 1).min(3), "step {step}");
        samples.extend(taken.batches.iter().flat_map(restored));
        // Whoever takes over goes on at the same place.
        grows.assign(&[(SlotId(0), taken.cursor)]);
        cursor = taken.cursor;
    }
    while expected.len() < samples.len() {
        expected.extend(flat.next(SlotId(0), FIRST).unwrap().batches.iter().flat_map(restored));
    }
    assert_eq!(samples[..], expected[..samples.len()], "the same samples in the same order");
    assert!(cursor.turn > 0);
}

/// The text of all rows, one after the other: each begins with `[CLS]` and ends with `[SEP]`, and padding follows.
fn text_of(batches: &[Batch], tokenizer: &Tokenizer) -> Vec<i64> {
    let mut text = Vec::new();
    for batch in batches {
        let ids = restored(batch);
        for (row, ids) in ids.chunks(batch.sequence_length).enumerate() {
            let mask = batch.mask.as_ref().map(|mask| &mask[row * batch.sequence_length..][..batch.sequence_length]);
            let length = mask.map_or(ids.len(), |mask| mask.iter().take_while(|real| **real).count());
            assert!(mask.is_none_or(|mask| mask[length..].iter().all(|real| !real)));
            let (special, last) = (tokenizer.special(), length - 1);
            assert_eq!((ids[0], ids[last]), (i64::from(special.classify), i64::from(special.separator)));
            text.extend(&ids[1..last]);
        }
    }
    text
}

#[test]
fn short_rows_hold_the_text_of_the_blocks_that_they_are_cut_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 100);
    let settings = format!("{MLM} run.steps=10 batch.short_length=8 batch.short_share=0.5");
    let (mut loader, _, tokenizer) = loader(&settings, &path);
    let mut at = |step| {
        loader.assign(&[(SlotId(1), Cursor { turn: 1, sample: 2 })]);
        loader.next(SlotId(1), Step(step)).unwrap()
    };
    let (short, long) = (at(5), at(6));
    assert_eq!((&short.segments, short.cursor), (&long.segments, long.cursor), "a block is a sample, cut or not");
    assert_eq!(short.segments.iter().map(|segment| segment.end - segment.start).sum::<u64>(), 4);
    for (short, long) in short.batches.iter().zip(&long.batches) {
        assert_eq!((short.samples, short.sequence_length, short.mask.is_none()), (8, 8, true));
        // Four times six tokens of text, and two special ones.
        assert_eq!((long.samples, long.sequence_length, long.mask.is_none()), (2, 26, true));
    }
    assert_eq!(text_of(&short.batches, &tokenizer), text_of(&long.batches, &tokenizer));
    // round(8 × 0.15) of each of eight rows, round(26 × 0.15) of each of two.
    assert_eq!((predicted(&short.batches), predicted(&long.batches)), (vec![8, 8], vec![8, 8]));
    let Labels::Masked { positions, .. } = &short.batches[0].labels else { panic!("no masks") };
    let places: Vec<i64> = positions.iter().map(|at| at % 8).collect();
    assert!(places.windows(2).any(|two| two[0] != two[1]), "each row is masked by itself: {places:?}");
    assert_eq!(at(5), short);
    // What is held out is neither cut nor made of less text.
    let (plain, _, _) = self::loader(MLM, &path);
    assert_eq!(loader.eval_batches(20).unwrap(), plain.eval_batches(20).unwrap());
}

#[test]
fn a_unit_shorter_than_a_block_makes_fewer_short_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 100);
    let settings = MLM.replace("sequence_length=32", "sequence_length=128").replace("unit_rows=10", "unit_rows=1");
    let settings = format!("{settings} run.steps=2 batch.short_length=16 batch.short_share=0.5");
    let (mut loader, _, tokenizer) = loader(&settings, &path);
    let mut padded = false;
    for turn in 0..10 {
        let mut at = |step| {
            loader.assign(&[(SlotId(0), Cursor { turn, sample: 0 })]);
            loader.next(SlotId(0), Step(step)).unwrap()
        };
        let (short, long) = (at(1), at(2));
        assert_eq!((&short.segments, short.cursor), (&long.segments, long.cursor));
        assert_eq!(text_of(&short.batches, &tokenizer), text_of(&long.batches, &tokenizer));
        assert!(short.batches.iter().all(|batch| batch.samples < 16 && batch.sequence_length <= 16));
        padded |= short.batches.iter().any(|batch| batch.mask.is_some());
    }
    assert!(padded, "the last row of a block is seldom full");
}

/// How many words of each batch are to be predicted.
fn predicted(batches: &[Batch]) -> Vec<usize> {
    let count = |batch: &Batch| match &batch.labels {
        Labels::Masked { positions, .. } => positions.len(),
        other => panic!("{other:?}"),
    };
    batches.iter().map(count).collect()
}

#[test]
fn the_step_decides_how_much_is_masked_and_the_cursor_what_it_is_masked_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 100);
    let falls = format!("{MLM} run.steps=100 objective.mask_rate=0.3 objective.final_mask_rate=0.15");
    let (mut loader, _, _) = loader(&falls, &path);
    let mut at = |step: u64| {
        loader.assign(&[(SlotId(3), Cursor { turn: 2, sample: 1 })]);
        loader.next(SlotId(3), Step(step)).unwrap()
    };
    let (first, middle, last) = (at(1), at(51), at(100));
    // Two samples of 32 tokens: round(9.6), round(7.16), round(4.8) of each.
    assert_eq!(predicted(&first.batches), [20, 20]);
    assert_eq!(predicted(&middle.batches), [14, 14]);
    assert_eq!(predicted(&last.batches), [10, 10]);
    for other in [&middle, &last] {
        assert_eq!((&other.segments, other.cursor), (&first.segments, first.cursor));
        for (batch, same) in other.batches.iter().zip(&first.batches) {
            assert_eq!(restored(batch), restored(same));
        }
    }
    let again = at(1);
    assert_eq!(again, first);
    // Held out are the samples of a run that masks at the last rate throughout.
    let (flat, _, _) = self::loader(MLM, &path);
    assert_eq!(loader.eval_batches(20).unwrap(), flat.eval_batches(20).unwrap());
}

#[test]
fn held_out_batches_never_change_and_are_not_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 100);
    let (mut a, corpus, _) = loader(MLM, &path);
    let (b, _, _) = loader(MLM, &path);
    a.assign(&[(SlotId(0), Cursor::default())]);
    a.next(SlotId(0), FIRST).unwrap();
    let batches = a.eval_batches(7).unwrap();
    assert_eq!(batches, b.eval_batches(7).unwrap());
    assert_eq!(batches.iter().map(|batch| batch.samples).collect::<Vec<_>>(), [2, 2, 2, 1]);
    assert!(!corpus.plan().eval_units().is_empty());
    let all = a.eval_batches(u64::MAX).unwrap();
    assert!(all.iter().map(|batch| batch.samples).sum::<usize>() > 7);
    // Each row of the fixture says its own number.
    let held = corpus.plan().eval_units()[0];
    assert!(
        corpus.plan().units().iter().all(|unit| (unit.row_group, unit.first_row) != (held.row_group, held.first_row))
    );
}

#[test]
fn eval_paths_are_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let train = corpus_file(folder.path(), 30);
    let eval: StringArray = (0..5).map(|row| Some(text(row + 100))).collect();
    let eval = write_parquet(&folder.path().join("e.parquet"), &[("text", Arc::new(eval) as ArrayRef)], 40);
    let config = config(&format!("{MLM} data.eval_paths=[\"{eval}\"]"), &[&train]);
    let corpus = Corpus::open(&config).unwrap();
    assert_eq!(corpus.plan().units().iter().map(|unit| unit.rows).sum::<u64>(), 30);
    assert_eq!(corpus.plan().eval_units().iter().map(|unit| unit.rows).sum::<u64>(), 5);
    assert_eq!(corpus.files().iter().map(|file| file.held_out).collect::<Vec<_>>(), [false, true]);
    let source =
        corpus::FileSource::open(&config.data.paths, &config.data.eval_paths, None, &corpus::Columns::of(&config));
    let again = Corpus::with_source(&config, corpus.files().to_vec(), Arc::new(source.unwrap())).unwrap();
    assert_eq!(again.plan().units(), corpus.plan().units());
}

#[test]
fn pairs_have_segments_labels_and_padding() {
    let folder = tempfile::tempdir().unwrap();
    let settings = MLM.replace("kind=mlm", "kind=mlm_nsp").replace("sequence_length=32", "sequence_length=40");
    let (mut loader, _, tokenizer) = loader(&settings, &corpus_file(folder.path(), 100));
    loader.assign(&[(SlotId(0), Cursor::default())]);
    let mut labels = [0; 2];
    for _ in 0..20 {
        for batch in loader.next(SlotId(0), FIRST).unwrap().batches {
            let segments = batch.segment_ids.as_ref().unwrap();
            let ids = restored(&batch);
            let Labels::Masked { next_sentence: Some(next), .. } = &batch.labels else { panic!("no labels") };
            next.iter().for_each(|label| labels[*label as usize] += 1);
            for sample in 0..batch.samples {
                let range = sample * batch.sequence_length..(sample + 1) * batch.sequence_length;
                let real = |at: &usize| batch.mask.as_ref().is_none_or(|mask| mask[*at]);
                let length = range.clone().take_while(real).count();
                assert!(range.clone().skip(length).all(|at| !real(&at) && ids[at] == 0 && segments[at] == 0));
                let separator = i64::from(tokenizer.special().separator);
                let ends: Vec<usize> = range.clone().take(length).filter(|at| ids[*at] == separator).collect();
                assert_eq!(ends.len(), 2);
                assert!(range.clone().take(length).all(|at| segments[at] == i64::from(at > ends[0])));
            }
        }
    }
    assert!(labels[0] > 10 && labels[1] > 10, "{labels:?}");
}

#[test]
fn every_kind_of_text_column_reads_alike() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..60).map(text).collect();
    let strings = texts.iter().map(String::as_str);
    let ids = tokenizer();
    let mut lists = ListBuilder::new(UInt32Builder::new());
    let mut large_lists = LargeListBuilder::new(Int64Builder::new());
    for text in &texts {
        // As other engines leave them: with special tokens around, which are dropped.
        let mut row = vec![ids.special().classify];
        row.extend(ids.encode(text).unwrap());
        row.push(ids.special().separator);
        lists.append_value(row.iter().copied().map(Some));
        large_lists.append_value(row.iter().map(|id| Some(i64::from(*id))));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(strings.clone().map(Some).collect::<StringArray>()),
        Arc::new(strings.clone().map(Some).collect::<LargeStringArray>()),
        Arc::new(strings.clone().map(Some).collect::<StringViewArray>()),
        Arc::new(strings.map(Some).collect::<DictionaryArray<Int32Type>>()),
        Arc::new(lists.finish()),
        Arc::new(large_lists.finish()),
    ];
    let steps: Vec<SlotStep> = columns
        .into_iter()
        .enumerate()
        .map(|(index, column)| {
            let name = folder.path().join(format!("{index}.parquet"));
            let other: ArrayRef = Arc::new(StringArray::from(vec!["x"; 60]));
            let path = write_parquet(&name, &[("before", other.clone()), ("text", column), ("after", other)], 40);
            let (mut loader, _, _) = loader(MLM, &path);
            loader.assign(&[(SlotId(2), Cursor::default())]);
            loader.next(SlotId(2), FIRST).unwrap()
        })
        .collect();
    for step in &steps[1..] {
        assert_eq!(step, &steps[0]);
    }
}

#[test]
fn null_rows_are_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let texts: StringArray = (0..40).map(|row| (row % 4 != 0).then(|| text(row))).collect();
    let path = write_parquet(&folder.path().join("n.parquet"), &[("text", Arc::new(texts) as ArrayRef)], 40);
    let settings = MLM.replace("slots=4", "slots=1").replace("unit_rows=10", "unit_rows=40 data.eval_fraction=0");
    let (mut loader, _, _) = loader(&settings, &path);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    loader.next(SlotId(0), FIRST).unwrap();
    let nulls = loader.counts().null_rows.load(Ordering::Relaxed);
    assert!(nulls >= 10 && nulls % 10 == 0, "ten in each pass over the unit: {nulls}");
}

#[test]
fn rows_that_give_nothing_end_the_run_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let texts = StringArray::from(vec![" "; 40]);
    let path = write_parquet(&folder.path().join("n.parquet"), &[("text", Arc::new(texts) as ArrayRef)], 40);
    let (mut loader, _, _) = loader(MLM, &path);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    for _ in 0..2 {
        let error = loader.next(SlotId(0), FIRST).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Empty);
        assert!(error.to_string().contains("gives not one sample"), "{error}");
    }
    assert_eq!(loader.next(SlotId(3), FIRST).unwrap_err().kind, ErrorKind::Internal);
}

#[test]
fn a_slot_may_be_dealt_empty_units_for_long() {
    let folder = tempfile::tempdir().unwrap();
    // One unit of eight holds something.
    let texts: StringArray = (0..80).map(|row| Some(if row < 10 { text(row) } else { " ".to_owned() })).collect();
    let path = write_parquet(&folder.path().join("n.parquet"), &[("text", Arc::new(texts) as ArrayRef)], 80);
    let mut unlucky = 0;
    for seed in 0..20 {
        let (mut loader, corpus, _) = loader(&format!("{MLM} data.eval_fraction=0 run.seed={seed}"), &path);
        assert_eq!(corpus.plan().units().len(), 8);
        for slot in (0..4).map(SlotId) {
            let holds_something = |turn: &u64| corpus.plan().deal(slot, *turn).unit == 0;
            let turn = (0..).find(holds_something).unwrap();
            unlucky += usize::from(turn > 8);
            loader.assign(&[(slot, Cursor::default())]);
            let step = loader.next(slot, FIRST).unwrap();
            let used = step.segments.iter().find(|segment| segment.total > 0).unwrap();
            assert_eq!((used.turn, used.start), (turn, 0), "seed {seed}, slot {slot}");
        }
    }
    assert!(unlucky > 0, "no slot had more empty units in a row than there are");
}

#[test]
fn a_unit_under_way_gives_signs_of_life() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 40);
    let pairs = MLM.replace("kind=mlm", "kind=mlm_nsp");
    for settings in [MLM, &pairs] {
        let config = config(&settings.replace("unit_rows=10", "unit_rows=40 data.eval_fraction=0.25"), &[&path]);
        let signs = Arc::new(AtomicU64::new(0));
        let heard = signs.clone();
        let corpus = Corpus::open(&config).unwrap().on_progress(move || _ = heard.fetch_add(1, Ordering::Relaxed));
        let mut loader = Loader::new(Arc::new(corpus), Arc::new(tokenizer()), &config);
        // Thirty rows of the only unit, and ten that are held out.
        loader.eval_batches(1).unwrap();
        assert_eq!(signs.load(Ordering::Relaxed), 10);
        loader.assign(&[(SlotId(0), Cursor::default())]);
        loader.next(SlotId(0), FIRST).unwrap();
        assert!(signs.load(Ordering::Relaxed) >= 40, "{signs:?}");
    }
}

#[test]
fn globs_take_all_matches_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b", "a", "c"] {
        let texts: StringArray = (0..10).map(|row| Some(text(row))).collect();
        write_parquet(&folder.path().join(format!("{name}.parquet")), &[("text", Arc::new(texts) as ArrayRef)], 40);
    }
    let config = config(MLM, &[&folder.path().join("*.parquet").display().to_string()]);
    let corpus = Corpus::open(&config).unwrap();
    let names: Vec<&str> = corpus.files().iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["a.parquet", "b.parquet", "c.parquet"]);
}

#[test]
fn urls_are_read_through_the_object_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 20);
    let by_url = Corpus::open(&config(MLM, &[&format!("file://{path}")])).unwrap();
    let by_path = Corpus::open(&config(MLM, &[&path])).unwrap();
    assert_eq!(by_url.plan().units(), by_path.plan().units());
}

#[test]
fn dropping_a_loader_at_work_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 400);
    for _ in 0..20 {
        let (mut loader, corpus, _) = loader(&MLM.replace("unit_rows=10", "unit_rows=40"), &path);
        loader.assign(&(0..4).map(|slot| (SlotId(slot), Cursor::default())).collect::<Vec<_>>());
        drop(loader);
        // The threads let go of the corpus.
        let weak = Arc::downgrade(&corpus);
        drop(corpus);
        run::until(|| weak.upgrade().is_none());
    }
}

#[test]
fn whole_sentences_fill_samples_and_spans_are_masked_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = corpus_file(folder.path(), 60);
    let rows = |packing: &str| {
        let settings = format!("{MLM} objective.masking=span objective.packing={packing}");
        let (mut loader, _, tokenizer) = loader(&settings, &path);
        loader.assign(&[(SlotId(0), Cursor::default())]);
        let texts: Vec<String> = (0..60).map(text).collect();
        let sentences: Vec<Vec<i64>> = texts
            .iter()
            .flat_map(|text| text.split_inclusive('.'))
            .map(|sentence| tokenizer.encode(sentence).unwrap().into_iter().map(i64::from).collect())
            .collect();
        let special = tokenizer.special();
        let mut rows = Vec::new();
        for step in 1..=5 {
            for batch in loader.next(SlotId(0), Step(step)).unwrap().batches {
                let Labels::Masked { positions, .. } = &batch.labels else { panic!("{:?}", batch.labels) };
                let restored = restored(&batch);
                for (row, ids) in restored.chunks(batch.sequence_length).enumerate() {
                    let real = ids.iter().filter(|id| **id != i64::from(special.pad)).count();
                    let range = row * batch.sequence_length..(row + 1) * batch.sequence_length;
                    let masked = positions.iter().filter(|at| range.contains(&(**at as usize))).count();
                    let inner = &ids[1..real - 1];
                    let text = inner.iter().filter(|id| **id != i64::from(special.separator)).count();
                    assert_eq!(masked, (text as f64 * 0.15).ceil() as usize);
                    // What lies between separators begins and ends with sentences.
                    for part in inner.split(|id| *id == i64::from(special.separator)) {
                        assert!(sentences.iter().any(|sentence| part.starts_with(sentence)), "{part:?}");
                        assert!(sentences.iter().any(|sentence| part.ends_with(sentence)), "{part:?}");
                    }
                    rows.push(inner.iter().filter(|id| **id == i64::from(special.separator)).count());
                }
            }
        }
        rows
    };
    assert!(rows("full-sentences").iter().any(|separators| *separators > 0), "documents share a sample");
    assert!(rows("doc-sentences").iter().all(|separators| *separators == 0), "no sample has two documents");
}
