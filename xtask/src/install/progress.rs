//! Progress of an installation by another program: the size of its folder and the time it took. pip's
//! own progress does not suit both a terminal and a log.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

/// Waits for `child` and prints how much it has put into `folder`: in place on a terminal, else as a
/// line every few seconds.
pub(crate) fn watch(child: &mut Child, what: &str, folder: &Path) -> io::Result<ExitStatus> {
    let terminal = io::stderr().is_terminal();
    let between_lines = Duration::from_millis(if terminal { 500 } else { 5_000 });
    let start = Instant::now();
    let mut next = between_lines;
    let mut most = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() >= next {
            next += between_lines;
            // The archive is removed once it is unpacked; progress must not shrink.
            most = most.max(bytes_below(folder));
            let line = line(what, most, start.elapsed());
            match terminal {
                true => eprint!("\r{line}\x1b[K"), // erases the rest of a longer line
                false => eprintln!("{line}"),
            }
            io::stderr().flush()?;
        }
        thread::sleep(Duration::from_millis(100));
    };
    if terminal {
        eprint!("\r\x1b[K");
    }
    Ok(status)
}

fn line(what: &str, bytes: u64, elapsed: Duration) -> String {
    format!(
        "{what}: {} MB after {} s",
        bytes / 1_000_000,
        elapsed.as_secs()
    )
}

/// Size of all files below `folder`. Files that disappear during the walk are left out.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes_below(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_folder_includes_nested_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deeper")).unwrap();
        fs::write(folder.path().join("deeper/file"), [0; 300]).unwrap();
        fs::write(folder.path().join("file"), [0; 20]).unwrap();
        assert_eq!(bytes_below(folder.path()), 320);
        assert_eq!(bytes_below(&folder.path().join("absent")), 0);
    }

    #[test]
    fn a_line_has_the_size_and_the_time() {
        let line = line(
            "installing torch 2.13.0",
            812_345_678,
            Duration::from_millis(14_900),
        );
        assert_eq!(line, "installing torch 2.13.0: 812 MB after 14 s");
    }
}
