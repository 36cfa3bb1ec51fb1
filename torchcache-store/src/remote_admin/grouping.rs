//! Which small segments are joined. Of several copies of a row, machines read that in the segment with the latest name, so
//! only segments whose names follow each other are joined: the copies of other segments are older or newer than all of theirs.

use super::discover::SegmentObject;
use crate::remote::{MAX_FOOTER_BYTES, OBJECT_BYTES, SMALL_BYTES};
use crate::segment::MOST_ROWS;

/// Whether joining these saves objects, and does not copy a long segment for the sake of short ones again and again.
fn is_worthwhile(group: &[SegmentObject]) -> bool {
    let total: u64 = group.iter().map(|it| it.size).sum();
    let largest = group.iter().map(|it| it.size).max().unwrap_or(0);
    group.len() > 1 && largest <= total - largest
}

/// Groups of small segments that follow each other, each of which fits into one segment. `may_join` leaves out others.
pub(super) fn groups<'s>(
    segments: impl Iterator<Item = &'s SegmentObject>,
    may_join: impl Fn(&SegmentObject) -> bool,
) -> Vec<Vec<SegmentObject>> {
    let mut groups = Vec::new();
    let mut run: Vec<SegmentObject> = Vec::new();
    for segment in segments {
        if !may_join(segment) || segment.size >= SMALL_BYTES {
            add_worthwhile(&std::mem::take(&mut run), &mut groups);
            continue;
        }
        run.push(*segment);
        if !fits(&run) {
            run.pop();
            add_worthwhile(&std::mem::take(&mut run), &mut groups);
            run.push(*segment);
        }
    }
    add_worthwhile(&run, &mut groups);
    groups
}

fn fits(run: &[SegmentObject]) -> bool {
    let footers = run.iter().map(|it| u64::from(it.name.footer_bytes));
    run.iter().map(|it| it.size).sum::<u64>() <= OBJECT_BYTES
        && run.iter().map(|it| it.name.max_rows()).sum::<usize>() <= MOST_ROWS
        && footers.sum::<u64>() <= u64::from(MAX_FOOTER_BYTES)
}

/// Adds a run, or the parts of it on both sides of a long segment.
pub(super) fn add_worthwhile(run: &[SegmentObject], groups: &mut Vec<Vec<SegmentObject>>) {
    if is_worthwhile(run) {
        groups.push(run.to_vec());
    } else if run.len() > 2
        && let Some(longest) = (0..run.len()).max_by_key(|n| run[*n].size)
    {
        add_worthwhile(&run[..longest], groups);
        add_worthwhile(&run[longest + 1..], groups);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::remote::ObjectName;

    /// The sizes in the groups of segments of these sizes, in MiB; 0 stands for one that may not be joined.
    fn grouped(sizes: &[u64]) -> Vec<Vec<u64>> {
        let segments = (0..).zip(sizes).map(|(nanos, mib)| SegmentObject {
            name: ObjectName::new(nanos, 100),
            size: mib << 20,
            modified: SystemTime::UNIX_EPOCH,
        });
        let segments: Vec<SegmentObject> = segments.collect();
        let groups = groups(segments.iter(), |segment| segment.size > 0).into_iter();
        let sizes = groups.map(|group| group.iter().map(|it| it.size >> 20).collect());
        sizes.collect()
    }

    #[test]
    fn only_neighbours_are_joined() {
        assert_eq!(grouped(&[1, 1, 0, 1, 1, 1]), [vec![1, 1], vec![1, 1, 1]]);
        assert_eq!(grouped(&[1, 64, 1, 0, 1]), [[0; 0]; 0]);
        assert_eq!(grouped(&[15, 15, 15, 15, 15]), [[15, 15, 15, 15]]);
    }

    #[test]
    fn a_long_segment_waits_for_as_many_bytes() {
        assert_eq!(grouped(&[4, 1, 2, 1]), [[4, 1, 2, 1]]);
        assert_eq!(grouped(&[1, 1, 8, 2, 2]), [[1, 1], [2, 2]]);
        assert_eq!(grouped(&[8, 1]), [[0; 0]; 0]);
    }
}
