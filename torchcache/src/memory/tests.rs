//! The memory tier holds what it should, within its bound.

use super::slab::ROW_OVERHEAD;
use super::*;
use crate::raw;
use torchcache_store::RowValues;

const ROW: u64 = 40;
const COST: u64 = ROW + ROW_OVERHEAD;

fn key(number: u32) -> Key {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn rows(numbers: &[u32], elements: i64) -> (Vec<Key>, Arc<Schema>, Tensor) {
    let values: Vec<f32> = numbers.iter().map(|&number| number as f32).collect();
    let tensor = Tensor::from_slice(&values)
        .view([-1, 1])
        .repeat([1, elements]);
    let one = [tensor];
    let schema = Schema::of(&one, Vec::new(), None, Device::Cpu).unwrap();
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

fn put(memory: &mut Memory, keys: &[Key], schema: &Arc<Schema>, packed: &Tensor) {
    let row_bytes = schema.row_bytes();
    let rooms = memory.reserve(keys, row_bytes, Device::Cpu).unwrap();
    for room in &rooms {
        let row = &raw::view(packed).unwrap()[room.row * row_bytes..][..row_bytes];
        let shelf = room.shelf.as_ref().unwrap();
        assert!(shelf.fill(room.slot.index() as usize, row));
    }
    memory.publish(keys, schema, rooms);
}

/// The value of a held row: all its elements are equal.
fn value(memory: &Memory, row: Row) -> f32 {
    let mut pins = Pins::default();
    assert!(memory.pin(row, &mut pins));
    let tensor = &memory
        .schema(row)
        .gather(&[pins.row(0)], Device::Cpu)
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
fn rows_come_back_over_many_chunks_in_any_order() {
    let mut memory = Memory::new(1 << 20, Eviction::Lru);
    for number in 0..1000 {
        insert(&mut memory, &[number]);
    }
    let numbers: Vec<u32> = (0..1000).map(|number| number * 7 % 1000).collect();
    let found: Vec<Row> = memory
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
fn lru_drops_the_row_used_longest_ago() {
    let mut memory = Memory::new(3 * COST, Eviction::Lru);
    insert(&mut memory, &[1, 2, 3]);
    held(&mut memory, [1]);
    insert(&mut memory, &[4]);
    assert_eq!(held(&mut memory, 1..=4), [1, 3, 4]);
    assert_eq!(memory.usage().evicted, 1);
}

#[test]
fn mru_keeps_what_is_there() {
    let mut memory = Memory::new(3 * COST, Eviction::Mru);
    insert(&mut memory, &[1, 2]);
    insert(&mut memory, &[3, 4, 5]);
    assert_eq!(held(&mut memory, 1..=5), [1, 2, 3]);
    assert_eq!(memory.usage().evicted, 0);
}

#[test]
fn the_bound_holds_keys_and_bookkeeping_included() {
    for bound in [0, COST - 1, COST, 10 * COST, 1000 * COST + 5] {
        let mut memory = Memory::new(bound, Eviction::Lru);
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
fn rows_of_another_size_find_room() {
    let mut memory = Memory::new(100 * COST, Eviction::Lru);
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
        "nor does it drive others out"
    );
}

#[test]
fn a_smaller_bound_takes_effect_at_once() {
    let mut memory = Memory::new(100 * COST, Eviction::Lru);
    insert(&mut memory, &(0..100).collect::<Vec<_>>());
    memory.reconfigure(10 * COST, Eviction::Lru);
    assert!(memory.usage().bytes <= 10 * COST);
    insert(&mut memory, &[500]);
    assert_eq!(held(&mut memory, [500]), [500]);
}

#[test]
fn rows_without_bytes_are_rows() {
    let mut memory = Memory::new(1 << 20, Eviction::Lru);
    insert_sized(&mut memory, &[1, 2], 0);
    let mut pins = Pins::default();
    for row in memory.find([key(2), key(1)].iter()) {
        assert!(memory.pin(row.unwrap(), &mut pins));
    }
    assert_eq!((pins.len(), pins.row(1)), (2, [].as_slice()));
}

#[test]
fn a_row_that_is_being_read_goes_but_its_place_is_not_taken() {
    let mut memory = Memory::new(2 * COST, Eviction::Lru);
    insert(&mut memory, &[1, 2]);
    let mut pins = Pins::default();
    let [Some(row)] = memory.find([key(1)].iter())[..] else {
        panic!("row 1 is held")
    };
    assert!(memory.pin(row, &mut pins));
    let before = pins.row(0).to_vec();
    insert(&mut memory, &[3]);
    insert(&mut memory, &[4, 5]);
    assert_eq!(pins.row(0), before);
    assert!(memory.usage().bytes <= 2 * COST);
    drop(pins);
    insert(&mut memory, &[6, 7]);
    assert_eq!(held(&mut memory, 1..=7), [6, 7]);
}

#[test]
fn room_given_out_before_a_clear_is_worth_nothing_after_it() {
    let mut memory = Memory::new(10 * COST, Eviction::Lru);
    let (keys, schema, _) = rows(&[1], 10);
    let rooms = memory.reserve(&keys, ROW as usize, Device::Cpu).unwrap();
    memory.clear();
    insert(&mut memory, &[2]);
    memory.publish(&keys, &schema, rooms);
    assert_eq!(held(&mut memory, 1..=2), [2]);
    insert(&mut memory, &[3, 4]);
    assert_eq!(held(&mut memory, 1..=4), [2, 3, 4]);
}

#[test]
fn a_key_that_is_held_keeps_its_first_row() {
    let mut memory = Memory::new(1 << 20, Eviction::Lru);
    insert(&mut memory, &[1]);
    let (_, schema, packed) = rows(&[9], 10);
    put(&mut memory, &[key(1)], &schema, &packed);
    assert_eq!(held(&mut memory, [1]), [1]);
    assert_eq!(memory.usage().rows, 1);
}
