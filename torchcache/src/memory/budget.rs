//! [`Budget`]: the bound that all memory tiers of a process share. Each tier has a bound of its own, and
//! twenty of them may still be more than the machine has.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::Detail;
use crate::options::environment;

/// How many bytes of host memory the tiers may take together, and how many they take.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    taken: AtomicU64,
}

/// A part of a budget, which is given back when it is dropped. By default it is of none.
#[derive(Debug, Default)]
pub(crate) struct Share(Option<(&'static Budget, u64)>);

impl Budget {
    pub(crate) const fn new(limit: u64) -> Self {
        Budget {
            limit,
            taken: AtomicU64::new(0),
        }
    }

    /// The budget of this process: `TORCHCACHE_MAX_MEMORY`, or half of the memory of the machine or of
    /// the control group, whichever is less. Read once.
    ///
    /// # Errors
    ///
    /// The environment variable is not a size.
    pub(crate) fn of_process() -> Result<&'static Budget, Detail> {
        static PROCESS: OnceLock<Budget> = OnceLock::new();
        if let Some(budget) = PROCESS.get() {
            return Ok(budget);
        }
        let limit = match environment::max_memory()? {
            Some(limit) => limit,
            None => available_memory(Path::new("/")).map_or(u64::MAX, |bytes| bytes / 2),
        };
        Ok(PROCESS.get_or_init(|| Budget::new(limit)))
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that no tier takes.
    pub(crate) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.taken.load(Relaxed))
    }

    /// Takes bytes, if they are left.
    pub(crate) fn take(&'static self, bytes: u64) -> Option<Share> {
        let add = |taken: u64| taken.checked_add(bytes).filter(|&sum| sum <= self.limit);
        let taken = self.taken.fetch_update(Relaxed, Relaxed, add);
        taken.ok().map(|_| Share(Some((self, bytes))))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some((budget, bytes)) = self.0 {
            budget.taken.fetch_sub(bytes, Relaxed);
        }
    }
}

/// The memory of the machine, or the limit of a control group that this process is in, whichever is
/// less; `None` where the system does not say, as outside Linux. `root` is where `/proc` and `/sys` are.
fn available_memory(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let total = read("proc/meminfo").and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    });
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().flat_map(|line| {
        // `number:controllers:path`; version 2 names no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next(), fields.next().unwrap_or_default());
        let (hierarchy, file) = match controllers {
            Some("") => ("sys/fs/cgroup", "memory.max"),
            Some(names) if names.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return Vec::new(),
        };
        // The limit of a group holds for those inside it. In a container the path may be that of the host,
        // of which only the end exists.
        let groups = Path::new(path.trim_start_matches('/')).ancestors();
        let limit = |group: &Path| {
            let file = root.join(hierarchy).join(group).join(file);
            let text = std::fs::read_to_string(file).ok()?;
            text.trim().parse::<u64>().ok() // or "max"
        };
        groups.filter_map(limit).collect()
    });
    total.into_iter().chain(limits).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_given_back_and_never_exceed_the_limit() {
        static BUDGET: Budget = Budget::new(100);
        let first = BUDGET.take(60).unwrap();
        assert!(BUDGET.take(41).is_none() && BUDGET.take(u64::MAX).is_none());
        let second = BUDGET.take(40).unwrap();
        assert_eq!(BUDGET.left(), 0);
        drop(first);
        assert_eq!(BUDGET.left(), 60);
        drop(second);
        assert_eq!(BUDGET.left(), 100);
    }

    #[test]
    fn the_least_limit_of_machine_and_control_groups_holds() {
        let meminfo = "MemTotal:       24684084 kB\nMemFree:        1 kB\n";
        let total = 24_684_084 * 1024;
        let container = "sys/fs/cgroup/memory/memory.limit_in_bytes";
        for (files, expected) in [
            (&[("proc/meminfo", meminfo)][..], Some(total)),
            (&[], None),
            (&[("proc/meminfo", "MemTotal: unknown")], None),
            (
                &[
                    ("proc/meminfo", meminfo),
                    ("proc/self/cgroup", "0::/a/b\n"),
                    ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                    ("sys/fs/cgroup/a/memory.max", "2000\n"),
                    ("sys/fs/cgroup/memory.max", "3000\n"),
                ],
                Some(2000),
            ),
            (
                &[
                    ("proc/meminfo", meminfo),
                    (
                        "proc/self/cgroup",
                        "5:cpu:/a\n4:memory,hugetlb:/docker/1\n0::/\n",
                    ),
                    (container, "5000\n"),
                ],
                Some(5000),
            ),
            (
                &[
                    ("proc/meminfo", meminfo),
                    ("proc/self/cgroup", "4:memory:/a\n"),
                    // No limit.
                    (
                        "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                        "9223372036854771712\n",
                    ),
                ],
                Some(total),
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            for (file, text) in files {
                let path = root.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            assert_eq!(available_memory(root.path()), expected, "{files:?}");
        }
    }
}
