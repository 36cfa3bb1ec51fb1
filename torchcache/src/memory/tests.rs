//! Tests of the memory tier: which rows it holds, within its bound.

use super::slab::ROW_OVERHEAD;
use super::*;
use crate::schema::CallDevices;
use crate::tensor::raw;
use torchcache_store::RowValues;

const ROW: u64 = 40;
const COST: u64 = ROW + ROW_OVERHEAD;

/// The only tier of its process.
fn only_tier(bound: u64, eviction: Eviction) -> Memory {
    static BUDGET: Budget = Budget::new(u64::MAX);
    Memory::new(bound, eviction, &BUDGET)
}

fn key(number: u32) -> Key {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn rows(numbers: &[u32], elements: i64) -> (Vec<Key>, Arc<TensorSchema>, Tensor) {
    let values: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
    let tensor = Tensor::from_slice(&values)
        .view([-1, 1])
        .repeat([1, elements]);
    let one = [tensor];
    let schema =
        TensorSchema::from_outputs("T", &one, Vec::new(), None, &CallDevices::CPU).unwrap();
    let packed = schema.pack(&one).unwrap();
    (
        numbers.iter().map(|&number| key(number)).collect(),
        Arc::new(schema),
        packed,
    )
}

fn insert(memory: &mut Memory, numbers: &[u32]) {
    insert_sized(memory, numbers, 10);
}

fn insert_sized(memory: &mut Memory, numbers: &[u32], elements: i64) {
    let (keys, schema, packed) = rows(numbers, elements);
    put(memory, &keys, &schema, &packed);
}

/// Pins a row after the others.
fn pin(memory: &Memory, row: RowRef, pinned: &mut PinnedRows) -> bool {
    match memory.slabs.rows(row.slot) {
        Some(ChunkRows::Host(arena)) => pinned.add(arena, row.slot.index),
        _ => false,
    }
}

fn put(memory: &mut Memory, keys: &[Key], schema: &Arc<TensorSchema>, packed: &Tensor) {
    let row_bytes = schema.row_bytes();
    let mut reservations = memory
        .reserve(keys, row_bytes, Device::Cpu, memory.epoch)
        .unwrap();
    for reservation in &mut reservations {
        reservation.fill(&raw::view(packed).unwrap()[reservation.row * row_bytes..][..row_bytes]);
        assert!(reservation.is_filled());
    }
    publish(memory, keys, schema, reservations);
}

fn publish(
    memory: &mut Memory,
    keys: &[Key],
    schema: &Arc<TensorSchema>,
    reservations: Vec<Reservation>,
) {
    let saved = memory.saved.mark(ShortHash::of("hash"), None);
    memory.publish(keys, schema, reservations, saved);
}

/// The value of a held row: all its elements are equal.
fn value(memory: &Memory, row: RowRef) -> f32 {
    let mut pinned = PinnedRows::default();
    assert!(pin(memory, row, &mut pinned));
    let tensor = &memory
        .schema(row)
        .gather(&[pinned.row(0)], &CallDevices::CPU)
        .unwrap()[0];
    let values = Vec::<f32>::try_from(tensor.view(-1)).unwrap();
    assert!(values.iter().all(|value| *value == values[0]));
    values[0]
}

/// The rows that are held, each checked against what was inserted under its number.
fn held(memory: &mut Memory, numbers: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut held = Vec::new();
    for number in numbers {
        if let [Some(row)] = memory.find([key(number)].iter())[..] {
            assert_eq!(value(memory, row), number as f32);
            held.push(number);
        }
    }
    held
}

#[test]
fn rows_are_found_across_chunks() {
    let mut memory = only_tier(1 << 20, Eviction::Lru);
    for number in 0..1000 {
        insert(&mut memory, &[number]);
    }
    let numbers: Vec<u32> = (0..1000).map(|number| number * 7 % 1000).collect();
    let found: Vec<RowRef> = memory
        .find(numbers.iter().map(|&n| key(n)).collect::<Vec<_>>().iter())
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(found.len(), 1000);
    for (number, row) in numbers.into_iter().zip(found) {
        assert_eq!(value(&memory, row), number as f32);
    }
}

#[test]
fn lru_evicts_the_least_recently_used_row() {
    let mut memory = only_tier(3 * COST, Eviction::Lru);
    insert(&mut memory, &[1, 2, 3]);
    held(&mut memory, [1]);
    insert(&mut memory, &[4]);
    assert_eq!(held(&mut memory, 1..=4), [1, 3, 4]);
    assert_eq!(memory.usage().evicted, 1);
}

#[test]
fn never_evicting_keeps_its_rows() {
    let mut memory = only_tier(3 * COST, Eviction::Never);
    insert(&mut memory, &[1, 2]);
    insert(&mut memory, &[3, 4, 5]);
    assert_eq!(held(&mut memory, 1..=5), [1, 2, 3]);
    assert_eq!(memory.usage().evicted, 0);
}

#[test]
fn the_bound_includes_keys_and_bookkeeping() {
    for bound in [0, COST - 1, COST, 10 * COST, 1000 * COST + 5] {
        let mut memory = only_tier(bound, Eviction::Lru);
        for start in 0..50 {
            insert(
                &mut memory,
                &(start * 40..start * 40 + 60).collect::<Vec<_>>(),
            );
            assert!(memory.usage().bytes <= bound);
            assert!(memory.usage().rows * COST <= bound);
        }
        assert_eq!(memory.usage().rows, (bound / COST).min(2020));
    }
}

#[test]
fn rows_of_another_size_replace_a_chunk() {
    let mut memory = only_tier(100 * COST, Eviction::Lru);
    insert(&mut memory, &(0..100).collect::<Vec<_>>());
    insert_sized(&mut memory, &[1000, 1001], 100);
    assert_eq!(held(&mut memory, 1000..=1001), [1000, 1001]);
    assert!(memory.usage().bytes <= 100 * COST);
    insert_sized(&mut memory, &[2000], 100_000);
    assert!(
        held(&mut memory, 2000..=2000).is_empty(),
        "a row above the bound is not held"
    );
    assert_eq!(
        held(&mut memory, 1000..=1001),
        [1000, 1001],
        "nor does it evict others"
    );
}

#[test]
fn a_smaller_bound_takes_effect_at_once() {
    let mut memory = only_tier(100 * COST, Eviction::Lru);
    insert(&mut memory, &(0..100).collect::<Vec<_>>());
    memory.reconfigure(10 * COST, Eviction::Lru);
    assert!(memory.usage().bytes <= 10 * COST);
    insert(&mut memory, &[500]);
    assert_eq!(held(&mut memory, [500]), [500]);
}

#[test]
fn empty_rows_are_held() {
    let mut memory = only_tier(1 << 20, Eviction::Lru);
    insert_sized(&mut memory, &[1, 2], 0);
    let mut pinned = PinnedRows::default();
    for row in memory.find([key(2), key(1)].iter()) {
        assert!(pin(&memory, row.unwrap(), &mut pinned));
    }
    assert_eq!((pinned.len(), pinned.row(1)), (2, [].as_slice()));
}

#[test]
fn the_slot_of_an_evicted_pinned_row_is_not_reused() {
    let mut memory = only_tier(2 * COST, Eviction::Lru);
    insert(&mut memory, &[1, 2]);
    let mut pinned = PinnedRows::default();
    let [Some(row)] = memory.find([key(1)].iter())[..] else {
        panic!("row 1 is held")
    };
    assert!(pin(&memory, row, &mut pinned));
    let before = pinned.row(0).to_vec();
    insert(&mut memory, &[3]);
    insert(&mut memory, &[4, 5]);
    assert_eq!(pinned.row(0), before);
    assert!(memory.usage().bytes <= 2 * COST);
    drop(pinned);
    insert(&mut memory, &[6, 7]);
    assert_eq!(held(&mut memory, 1..=7), [6, 7]);
}

#[test]
fn a_row_that_cannot_be_pinned_is_given_to_no_other_tier() {
    let mut memory = only_tier(8 * COST, Eviction::Lru);
    insert(&mut memory, &[0, 1, 2]);
    let row = memory.rows.peek(&key(1)).copied().unwrap();
    let states = memory.slabs.rows(row.slot).unwrap().states();
    assert!(states.empty(row.slot.index as usize));
    let held = memory.by_schema(&[key(0), key(1), key(2)]);
    let [(schema, keys, found)] = &held[..] else {
        panic!("{held:?}")
    };
    assert_eq!(*keys, [key(0), key(2)]);
    let packed = schema.allocate(2, Device::Cpu).unwrap();
    rows::overwrite_rows(&packed, found).unwrap();
    assert!(packed.equal(&rows(&[0, 2], 10).2));
}

#[test]
fn clear_invalidates_reservations() {
    let mut memory = only_tier(1 << 20, Eviction::Lru);
    let (keys, schema, _) = rows(&[1], 10);
    let reservations = memory
        .reserve(&keys, ROW as usize, Device::Cpu, memory.epoch)
        .unwrap();
    drop(memory.remove_all());
    insert(&mut memory, &[2]);
    publish(&mut memory, &keys, &schema, reservations);
    assert_eq!(held(&mut memory, 1..=2), [2]);
    insert(&mut memory, &[3, 4]);
    assert_eq!(held(&mut memory, 1..=4), [2, 3, 4]);
}

#[test]
fn the_first_row_of_a_key_wins() {
    let mut memory = only_tier(1 << 20, Eviction::Lru);
    insert(&mut memory, &[1]);
    let (_, schema, packed) = rows(&[9], 10);
    put(&mut memory, &[key(1)], &schema, &packed);
    assert_eq!(held(&mut memory, [1]), [1]);
    assert_eq!(memory.usage().rows, 1);
}

/// A device whose rows are on the CPU in tests.
const DEVICE: Device = Device::Vulkan;

/// Inserts a row as a call does, up to the moment when it is published.
fn reserve_on_device(
    memory: &mut Memory,
    number: u32,
) -> (Vec<Key>, Arc<TensorSchema>, Vec<Reservation>) {
    let (keys, schema, packed) = rows(&[number], 10);
    let mut reservations = memory
        .reserve(&keys, ROW as usize, DEVICE, memory.epoch)
        .unwrap();
    let rows: Vec<i64> = reservations.iter().map(|it| it.row as i64).collect();
    fill_on_device(&mut reservations, &packed, &rows).unwrap();
    assert!(reservations.iter().all(Reservation::is_filled));
    (keys, schema, reservations)
}

fn held_on_device(memory: &mut Memory, number: u32) -> Option<f32> {
    let [row] = memory.find([key(number)].iter())[..] else {
        panic!("one row was asked for")
    };
    let found = memory.read(vec![(0, row?)]);
    Some(value_on_device(&found[0]))
}

/// The value of a row on the device, which is copied now.
fn value_on_device(found: &FoundRows) -> f32 {
    assert!(matches!(found.bytes, RowBytes::OnDevice(_)));
    let packed = found.bytes.to_packed(ROW as usize, Device::Cpu).unwrap();
    let bytes = raw::view(&packed).unwrap();
    f32::from_ne_bytes(*bytes.first_chunk().unwrap())
}

/// It may have none left, or not be there, as this one.
#[test]
fn a_device_without_memory_costs_no_row_elsewhere() {
    const MOST: u32 = (1 << 20) / COST as u32;
    for eviction in [Eviction::Auto, Eviction::Lru] {
        let mut memory = only_tier(1 << 20, eviction);
        for held in [0, 1, 300, MOST] {
            insert(&mut memory, &(0..held).collect::<Vec<_>>());
            for number in MOST..MOST + 10 {
                let (keys, ..) = rows(&[number], 10);
                let refused = memory.reserve(&keys, ROW as usize, Device::Mps, memory.epoch);
                let error = refused.unwrap_err().to_string();
                assert!(error.contains("MPS"), "{error}");
            }
            let usage = memory.usage();
            assert_eq!(
                (usage.rows, usage.evicted),
                (u64::from(held), 0),
                "{eviction:?}"
            );
        }
    }
}

#[test]
fn the_slot_of_a_row_that_is_read_on_a_device_is_not_reused() {
    let mut memory = only_tier(2 * COST, Eviction::Lru);
    let insert = |memory: &mut Memory, number| {
        let (keys, schema, reservations) = reserve_on_device(memory, number);
        publish(memory, &keys, &schema, reservations);
    };
    insert(&mut memory, 1);
    insert(&mut memory, 2);
    let row = memory.find([key(1)].iter())[0].unwrap();
    let found = memory.read(vec![(0, row)]);
    for number in 3..9 {
        insert(&mut memory, number);
    }
    assert_eq!(value_on_device(&found[0]), 1.0);
    assert_eq!(held_on_device(&mut memory, 1), Some(1.0));
    assert_eq!(held_on_device(&mut memory, 8), Some(8.0));
    // Another one is read while its chunk is dropped.
    drop(memory.remove_all());
    assert_eq!(memory.usage().bytes, 2 * COST);
    insert(&mut memory, 9);
    assert_eq!(memory.usage().rows, 0, "the chunk still has its memory");
    assert_eq!(value_on_device(&found[0]), 1.0);
    drop(found);
    insert(&mut memory, 9);
    assert_eq!(held_on_device(&mut memory, 1), None);
    assert_eq!(held_on_device(&mut memory, 9), Some(9.0));
}

#[test]
fn dropping_a_chunk_invalidates_device_reservations() {
    let mut memory = only_tier(1 << 20, Eviction::Lru);
    let (keys, schema, reservations) = reserve_on_device(&mut memory, 1);
    drop(memory.remove_all());
    // The chunk is gone, and then another one is there.
    publish(&mut memory, &keys, &schema, reservations);
    assert_eq!(held_on_device(&mut memory, 1), None);
    let (keys, schema, reservations) = reserve_on_device(&mut memory, 3);
    drop(memory.remove_all());
    let (other_keys, other_schema, other_reservations) = reserve_on_device(&mut memory, 2);
    publish(&mut memory, &other_keys, &other_schema, other_reservations);
    publish(&mut memory, &keys, &schema, reservations);
    assert_eq!(held_on_device(&mut memory, 3), None);
    assert_eq!(held_on_device(&mut memory, 2), Some(2.0));
    // A smaller bound drops the chunk as well.
    let (keys, schema, reservations) = reserve_on_device(&mut memory, 4);
    memory.reconfigure(COST, Eviction::Lru);
    publish(&mut memory, &keys, &schema, reservations);
    memory.reconfigure(1 << 20, Eviction::Lru);
    insert(&mut memory, &[5, 6, 7]);
    memory.reconfigure(COST, Eviction::Lru);
    assert!(memory.usage().bytes <= COST);
}

#[test]
fn pinned_rows_are_not_evicted() {
    let mut memory = only_tier(4 * COST, Eviction::Lru);
    insert(&mut memory, &[1, 2, 3, 4]);
    let mut pinned = PinnedRows::default();
    for number in [1, 2] {
        let [Some(row)] = memory.find([key(number)].iter())[..] else {
            panic!("row {number} is held")
        };
        assert!(pin(&memory, row, &mut pinned));
    }
    insert(&mut memory, &[5, 6, 7]);
    assert_eq!(held(&mut memory, 1..=7), [1, 2, 5, 6]);
    assert_eq!(memory.usage().evicted, 2);
}

#[test]
fn empty_chunks_are_dropped_for_another_row_size() {
    let mut memory = only_tier(2 * COST, Eviction::Lru);
    let (keys, _, _) = rows(&[1, 2], 10);
    let reservations = memory
        .reserve(&keys, ROW as usize, Device::Cpu, memory.epoch)
        .unwrap();
    memory.release(reservations);
    insert_sized(&mut memory, &[3], 5);
    assert_eq!(held(&mut memory, [3]), [3]);
    // For a smaller bound as well.
    let mut memory = only_tier(100 * COST, Eviction::Lru);
    let reservations = memory
        .reserve(&keys, ROW as usize, Device::Cpu, memory.epoch)
        .unwrap();
    memory.release(reservations);
    memory.reconfigure(COST, Eviction::Lru);
    assert!(memory.usage().bytes <= COST);
}

#[test]
fn pinned_memory_counts_until_it_is_unpinned() {
    let mut memory = only_tier(4 * COST, Eviction::Lru);
    insert(&mut memory, &[1, 2, 3, 4]);
    let [Some(row)] = memory.find([key(1)].iter())[..] else {
        panic!("row 1 is held")
    };
    let mut pinned = PinnedRows::default();
    assert!(pin(&memory, row, &mut pinned));
    // A row of another size drops the chunk, which is still pinned.
    insert_sized(&mut memory, &[5], 11);
    assert_eq!(memory.usage().rows, 0);
    assert_eq!(memory.usage().bytes, 4 * COST);
    drop(pinned);
    assert_eq!(memory.usage().bytes, 0);
    insert_sized(&mut memory, &[5], 11);
    assert_eq!(held(&mut memory, [5]), [5]);
}

#[test]
fn auto_keeps_its_counts_with_batches_of_cache_size() {
    // Skewed access to a set that changes.
    let hits = |eviction| {
        let mut memory = only_tier(1000 * ROW_OVERHEAD, eviction);
        let (_, schema, packed) = rows(&(0..2000).collect::<Vec<_>>(), 0);
        let (mut state, mut hits, mut asked) = (7u64, 0, 0);
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for round in 0..100u32 {
            let mut seen = std::collections::HashSet::new();
            let keys: Vec<Key> = (0..2000)
                .map(|_| 20_000f64.powf(random()) as u32 + round / 10 * 5_000)
                .filter(|&number| seen.insert(number))
                .map(key)
                .collect();
            memory.note(&keys);
            let found = memory.find(keys.iter());
            let there = found.iter().flatten().count();
            if round > 50 {
                hits += there;
                asked += keys.len();
            }
            let missing: Vec<Key> = keys
                .iter()
                .zip(&found)
                .filter_map(|(&key, row)| row.is_none().then_some(key))
                .collect();
            put(&mut memory, &missing, &schema, &packed);
        }
        hits as f64 / asked as f64
    };
    let (lru, auto) = (hits(Eviction::Lru), hits(Eviction::Auto));
    assert!(auto > 0.9 * lru, "lru {lru}, auto {auto}");
}

#[test]
fn rows_of_an_earlier_epoch_are_not_kept() {
    let mut memory = only_tier(1 << 20, Eviction::Lru);
    let (keys, ..) = rows(&[1, 2], 10);
    let epoch = memory.epoch().unwrap();
    drop(memory.begin_removal(None));
    assert_eq!(memory.epoch(), None, "a call that begins now keeps nothing");
    memory.end_removal();
    let reserve = |memory: &mut Memory, epoch| {
        let reservations = memory.reserve(&keys, ROW as usize, Device::Cpu, epoch);
        reservations.unwrap().len()
    };
    assert_eq!(reserve(&mut memory, epoch), 0);
    let epoch = memory.epoch().unwrap();
    assert_eq!(reserve(&mut memory, epoch), 2);
}

#[test]
fn reserved_rows_of_an_earlier_epoch_are_not_published() {
    let mut memory = only_tier(1 << 20, Eviction::Lru);
    insert(&mut memory, &[1, 2, 3]);
    let (keys, schema, _) = rows(&[4, 5], 10);
    let reserved = memory.reserve(&keys, ROW as usize, Device::Cpu, memory.epoch);
    drop(memory.begin_removal(Some(&[key(2), key(9)])));
    memory.end_removal();
    publish(&mut memory, &keys, &schema, reserved.unwrap());
    assert_eq!(held(&mut memory, 0..9), [1, 3]);
    assert_eq!(memory.slabs.taken(), 2);
    insert(&mut memory, &[2, 4]);
    assert_eq!(held(&mut memory, 0..9), [1, 2, 3, 4]);
}

#[test]
fn an_evicted_row_is_counted_once() {
    let mut memory = only_tier(1 << 20, Eviction::Lru);
    insert(&mut memory, &[1, 2, 3, 4]);
    memory.reconfigure(0, Eviction::Lru);
    let usage = memory.usage();
    assert_eq!((usage.rows, usage.evicted), (0, 4));
}

#[test]
fn tiers_share_the_budget_of_the_process() {
    // Slabs do not grow by more of them than are needed.
    const LARGE: i64 = 20_000;
    const COST_OF_LARGE: u64 = 4 * LARGE as u64 + ROW_OVERHEAD;
    static BUDGET: Budget = Budget::new(10 * COST_OF_LARGE);
    let tier = || Memory::new(1 << 20, Eviction::Lru, &BUDGET);
    let (mut first, mut second) = (tier(), tier());
    insert_sized(&mut first, &[0, 1, 2, 3, 4, 5], LARGE);
    assert_eq!(first.take_exhausted_budget(), None);
    insert_sized(&mut second, &[10, 11, 12, 13, 14, 15], LARGE);
    assert_eq!(held(&mut second, 10..16), [10, 11, 12, 13]);
    assert_eq!(second.take_exhausted_budget(), Some(10 * COST_OF_LARGE));
    assert_eq!(second.take_exhausted_budget(), None, "reported once");
    assert_eq!(
        first.usage().bytes + second.usage().bytes,
        10 * COST_OF_LARGE
    );

    // A tier without room to grow evicts its own rows.
    insert_sized(&mut second, &[16], LARGE);
    assert_eq!(held(&mut second, 10..17), [11, 12, 13, 16]);
    assert_eq!(held(&mut first, 0..6), [0, 1, 2, 3, 4, 5]);

    // One that goes leaves room to the others.
    drop(first);
    insert_sized(&mut second, &[0, 1, 2, 3, 4, 5], LARGE);
    assert_eq!(second.usage().rows, 10);
    assert_eq!(BUDGET.left(), 0);
    drop(second.begin_removal(None));
    assert_eq!(BUDGET.left(), 10 * COST_OF_LARGE);
}

#[test]
fn pinned_memory_stays_in_the_budget_until_it_is_read() {
    static BUDGET: Budget = Budget::new(4 * COST);
    let tier = || Memory::new(1 << 20, Eviction::Lru, &BUDGET);
    let (mut first, mut second) = (tier(), tier());
    insert(&mut first, &[0, 1, 2, 3]);
    let row = first.find([key(0)].iter())[0].unwrap();
    let mut pinned = PinnedRows::default();
    assert!(pin(&first, row, &mut pinned));
    drop(first);
    insert(&mut second, &[4]);
    assert_eq!(second.usage().rows, 0, "it is still read");
    drop(pinned);
    insert(&mut second, &[4]);
    assert_eq!(held(&mut second, [4]), [4]);
}

#[test]
fn rows_on_other_devices_need_no_host_memory() {
    static BUDGET: Budget = Budget::new(COST);
    let mut memory = Memory::new(1 << 20, Eviction::Lru, &BUDGET);
    let (keys, schema, packed) = rows(&[0, 1, 2, 3], 10);
    let reserved = memory.reserve(&keys, schema.row_bytes(), DEVICE, memory.epoch);
    let mut reservations = reserved.unwrap();
    fill_on_device(&mut reservations, &packed, &[0, 1, 2, 3]).unwrap();
    publish(&mut memory, &keys, &schema, reservations);
    assert_eq!((memory.usage().rows, BUDGET.left()), (4, COST));
}

#[test]
fn a_row_larger_than_the_budget_evicts_nothing() {
    static BUDGET: Budget = Budget::new(4 * COST);
    let mut memory = Memory::new(1 << 20, Eviction::Lru, &BUDGET);
    insert(&mut memory, &[0, 1]);
    insert_sized(&mut memory, &[2], 1000);
    assert_eq!(held(&mut memory, 0..3), [0, 1]);
}
