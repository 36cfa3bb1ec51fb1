//! [`Admission`]: the policy `auto`, which decides which rows a full memory tier admits. It sees keys
//! only.
//!
//! The rule is to *admit frequent rows*: a new row must have been requested clearly more often than
//! the row that it would replace. In epochs every row is requested once, so nothing is replaced and
//! each epoch hits the rows of the last one; under skewed access the popular rows are admitted.
//! *Admit all*, the rule of `lru`, is better for rows that are requested again soon, and when the
//! frequent rows are no longer requested. So both rules are simulated on a small sample of the keys.
//! Where the second had clearly more hits, the tier is renewed: it admits as many rows as it holds.

use crate::key::Key;

/// How many more requests a new row needs than the row that it replaces. The counts of rows that are
/// requested once an epoch differ by up to two, since periods and epochs do not start together.
const MARGIN: u8 = 3;

/// Counts are halved after this many times as many requests as the cache has rows. A shorter period
/// separates popular rows less well; a longer one forgets a data set that is no longer used later.
const PERIOD: usize = 8;

/// The simulated caches hold at least this many rows (if the cache does), and fewer than twice as
/// many.
const SAMPLE: usize = 256;

/// The admission policy of a full cache. Takes 8 bytes per row of the cache, and about 8 KB.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The number of rows of the cache when this was created.
    rows: usize,
    counts: Counts,
    /// A key is in the sample if its hash has none of these bits.
    skipped: u64,
    /// The simulated cache of each rule, the next victim first.
    admit_all: Vec<u64>,
    admit_frequent: Vec<u64>,
    /// How many rows a simulated cache holds.
    capacity: usize,
    /// How many more hits the first had recently than the second.
    lead: usize,
    /// How many more rows to admit, frequent or not.
    renewals: usize,
}

impl Admission {
    /// The policy for a cache that has just become full of these keys, given oldest first. Both
    /// simulations start with them.
    pub(crate) fn new<'a>(rows: usize, held: impl Iterator<Item = &'a Key>) -> Self {
        let rate = (rows / SAMPLE).max(1).ilog2();
        let skipped = ((1 << rate) - 1) << 20;
        let mut sampled: Vec<u64> = held.map(hash).filter(|hash| hash & skipped == 0).collect();
        let capacity = (rows >> rate).max(1);
        sampled.drain(..sampled.len().saturating_sub(capacity));
        Admission {
            rows,
            counts: Counts::new(rows),
            skipped,
            admit_all: sampled.clone(),
            admit_frequent: sampled,
            capacity,
            lead: 0,
            renewals: 0,
        }
    }

    /// Whether it still fits a cache that holds this many rows, and need not be created again.
    pub(crate) fn suits(&self, rows: usize) -> bool {
        rows <= self.rows * 2 && rows >= self.rows / 2
    }

    /// Records a request, once for each distinct key of a call, hit or not.
    pub(crate) fn record(&mut self, key: &Key) {
        let hash = hash(key);
        self.counts.record(hash);
        if hash & self.skipped == 0 {
            self.simulate(hash);
        }
    }

    /// Whether a new row replaces `victim`, the least recently used one. If not, the caller makes the
    /// victim the most recently used, so that the next new row is compared with another.
    pub(crate) fn admits(&mut self, new: &Key, victim: &Key) -> bool {
        if self.renewals > 0 {
            self.renewals -= 1;
            return true;
        }
        self.counts.is_more_frequent(hash(new), hash(victim))
    }

    /// Requests a key of the sample from both simulated caches.
    fn simulate(&mut self, hash: u64) {
        let all = touch(&mut self.admit_all, hash);
        if !all {
            if self.admit_all.len() >= self.capacity {
                self.admit_all.remove(0);
            }
            self.admit_all.push(hash);
        }
        let frequent = touch(&mut self.admit_frequent, hash);
        if !frequent {
            let held = &mut self.admit_frequent;
            if held.len() < self.capacity {
                held.push(hash);
            } else {
                let victim = held.remove(0);
                let admits = self.counts.is_more_frequent(hash, victim);
                held.push(if admits { hash } else { victim });
            }
        }
        match (all, frequent) {
            (true, false) => self.lead += 1,
            (false, true) => self.lead = self.lead.saturating_sub(1),
            _ => {}
        }
        // A smaller lead may be chance.
        if self.lead > self.capacity / 16 + 8 {
            self.lead = 0;
            self.admit_frequent.clone_from(&self.admit_all);
            self.renewals = self.rows;
        }
    }
}

/// Whether a key is held; then it becomes the last victim.
fn touch(held: &mut [u64], hash: u64) -> bool {
    // `contains` is vectorised, a search for the place is not.
    let found = held.contains(&hash);
    if found && let Some(place) = held.iter().rposition(|&other| other == hash) {
        held[place..].rotate_left(1);
    }
    found
}

/// Eight bytes of the key, which is a digest. The highest bits choose a line of counters, the lowest
/// 20 the counters in it, and those above the 20 the sample.
fn hash(key: &Key) -> u64 {
    u64::from_le_bytes(*key[8..].first_chunk().expect("a key has 32 bytes"))
}

/// About how often each key was recorded: a count-min sketch of 4-bit counters, 16 per row of the
/// cache. The four counters of a key are in one cache line.
#[derive(Debug)]
struct Counts {
    lines: Vec<Line>,
    recorded: usize,
    period: usize,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line([u64; 8]);

impl Counts {
    fn new(rows: usize) -> Self {
        Counts {
            lines: vec![Line::default(); rows.div_ceil(8).max(1)],
            recorded: 0,
            period: PERIOD * rows.max(1),
        }
    }

    fn record(&mut self, hash: u64) {
        self.recorded += 1;
        if self.recorded == self.period {
            self.recorded = 0;
            let words = self.lines.iter_mut().flat_map(|line| &mut line.0);
            words.for_each(|word| *word = *word >> 1 & 0x7777_7777_7777_7777);
        }
        // Only the lowest counters of the key are raised, which disturbs other keys least.
        let [lowest, ..] = self.counters(hash);
        let line = self.line(hash);
        for (word, shift) in counter_positions(hash) {
            let word = &mut self.lines[line].0[word];
            if lowest < 15 && (*word >> shift & 15) as u8 == lowest {
                *word += 1 << shift;
            }
        }
    }

    /// Whether `new` was recorded clearly more often than `held`. Other keys raise the counters of
    /// both: the lowest counter is taken for the new key, and the second lowest for the held one,
    /// which stays in doubt.
    fn is_more_frequent(&self, new: u64, held: u64) -> bool {
        let ([new, ..], [_, held, ..]) = (self.counters(new), self.counters(held));
        new >= held + MARGIN
    }

    /// The counters of a key, lowest first.
    fn counters(&self, hash: u64) -> [u8; 4] {
        let line = self.lines[self.line(hash)].0;
        let mut counters =
            counter_positions(hash).map(|(word, shift)| (line[word] >> shift & 15) as u8);
        counters.sort_unstable();
        counters
    }

    fn line(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.lines.len() as u128) >> 64) as usize
    }
}

/// The four counters of a key, one in each quarter of its line, as word and shift.
fn counter_positions(hash: u64) -> [(usize, u32); 4] {
    std::array::from_fn(|quarter| {
        let counter = (hash >> (5 * quarter)) as usize & 31;
        (2 * quarter + counter / 16, 4 * (counter % 16) as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lru::LruCache;

    const ROWS: u64 = 4000;

    fn key(row: u64) -> Key {
        let mut key = [0; 32];
        let hash = (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        key[8..16].copy_from_slice(&(hash ^ hash >> 32).to_le_bytes());
        key
    }

    /// A random number, uniform in `0.0..1.0`.
    fn random(state: &mut u64) -> f64 {
        *state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (*state >> 11) as f64 / (1u64 << 53) as f64
    }

    /// All `rows`, `epochs` times, each time in another order.
    fn epochs(rows: std::ops::Range<u64>, epochs: u64) -> Vec<u64> {
        let order = |epoch: u64| {
            let mut state = epoch + 1;
            let mut rows: Vec<u64> = rows.clone().collect();
            rows.sort_by_cached_key(|_| random(&mut state).to_bits());
            rows
        };
        (0..epochs).flat_map(order).collect()
    }

    /// Requests of row `n` in proportion to `1 / n`.
    fn skewed(count: usize) -> Vec<u64> {
        let mut state = 7;
        let popular = |_| (ROWS as f64).powf(random(&mut state)) as u64;
        (0..count).map(popular).collect()
    }

    /// The share of hits after the first `warm` requests.
    fn hits(capacity: usize, auto: bool, rows: &[u64], warm: usize) -> f64 {
        let mut held: LruCache<Key, ()> = LruCache::unbounded();
        let mut admission: Option<Admission> = None;
        let mut hits = 0;
        for (time, &row) in rows.iter().enumerate() {
            let key = key(row);
            if let Some(admission) = &mut admission {
                admission.record(&key);
            }
            if held.get(&key).is_some() {
                hits += usize::from(time >= warm);
                continue;
            }
            if held.len() == capacity {
                let keys = held.iter().rev().map(|(key, ())| key);
                let admission = admission.get_or_insert_with(|| Admission::new(capacity, keys));
                assert!(admission.suits(held.len()));
                let victim = *held.peek_lru().unwrap().0;
                if auto && !admission.admits(&key, &victim) {
                    held.promote(&victim);
                    continue;
                }
                held.pop_lru();
            }
            held.push(key, ());
        }
        hits as f64 / (rows.len() - warm) as f64
    }

    #[test]
    fn epochs_hit_as_many_rows_as_the_cache_holds() {
        let rows = epochs(0..ROWS, 8);
        for percent in [10, 25, 50, 90] {
            let capacity = ROWS as usize * percent / 100;
            let auto = hits(capacity, true, &rows, ROWS as usize);
            assert!(auto > 0.0095 * percent as f64, "{percent} %: {auto}");
        }
    }

    #[test]
    fn popular_rows_are_admitted() {
        let rows = skewed(40_000);
        let (lru, auto) = (
            hits(400, false, &rows, 10_000),
            hits(400, true, &rows, 10_000),
        );
        assert!(auto > lru + 0.04, "lru {lru}, auto {auto}");
    }

    #[test]
    fn rows_requested_again_soon_are_held() {
        let mut state = 3;
        let rows: Vec<u64> = (0..40_000)
            .map(|time| time / 4 + (random(&mut state) * 300.0) as u64)
            .collect();
        let (lru, auto) = (
            hits(400, false, &rows, 10_000),
            hits(400, true, &rows, 10_000),
        );
        assert!(lru > 0.7 && auto > 0.98 * lru, "lru {lru}, auto {auto}");
    }

    #[test]
    fn another_data_set_replaces_the_first() {
        let mut rows = epochs(0..ROWS, 6);
        rows.extend(epochs(ROWS..2 * ROWS, 6));
        for percent in [25, 50, 90] {
            let capacity = ROWS as usize * percent / 100;
            let auto = hits(capacity, true, &rows, 9 * ROWS as usize);
            assert!(auto > 0.0095 * percent as f64, "{percent} %: {auto}");
        }
    }

    #[test]
    fn small_caches_hit_too() {
        for capacity in [1, 2, 7] {
            let auto = hits(capacity, true, &epochs(0..20, 50), 40);
            let best = capacity as f64 / 20.0;
            assert!(auto > 0.8 * best, "{capacity} rows: {auto} of {best}");
        }
        let mut none = Admission::new(0, [].iter());
        none.record(&key(0));
        assert!(none.suits(0) && !none.suits(1));
    }

    #[test]
    fn counts_are_never_too_low_and_decay() {
        let mut counts = Counts::new(1000);
        for row in 0..500 {
            (0..row % 20).for_each(|_| counts.record(hash(&key(row))));
        }
        for row in 0..500 {
            assert!(u64::from(counts.counters(hash(&key(row)))[0]) >= (row % 20).min(15));
        }
        let before: Vec<[u8; 4]> = (0..500)
            .map(|row| counts.counters(hash(&key(row))))
            .collect();
        for _ in counts.recorded..counts.period {
            counts.record(hash(&key(1_000_000)));
        }
        let lone = counts.line(hash(&key(1_000_000)));
        for row in (0..500).filter(|&row| counts.line(hash(&key(row))) != lone) {
            let half = before[row as usize].map(|count| count / 2);
            assert_eq!(counts.counters(hash(&key(row))), half);
        }
    }

    #[test]
    fn counts_take_eight_bytes_per_row() {
        assert_eq!(
            size_of::<Line>() * Counts::new(80_000).lines.len(),
            8 * 80_000
        );
    }
}
