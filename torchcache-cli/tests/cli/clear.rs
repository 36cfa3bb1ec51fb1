//! `clear` removes rows only after a confirmation.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{command, hash, json, root, stderr, stdout, text};

#[test]
fn without_a_terminal_clear_needs_yes() {
    let root = root();
    let refused = stderr(root.path(), &["clear", ".", &hash(1)[..8]], 2);
    assert!(refused.contains("--yes"), "{refused}");
    assert!(root.path().join(hash(1)).exists());
    let done = json(root.path(), &["clear", ".", &hash(1)[..8], "--yes"], 0);
    assert_eq!(done["removed_segments"], serde_json::json!(2));
    assert!(!root.path().join(hash(1)).exists() && root.path().join(hash(2)).exists());
    assert!(stdout(root.path(), &["clear", ".", "-y"], 0).starts_with("removed 4 caches"));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    assert!(stdout(root.path(), &["clear", "."], 0).starts_with("removed 0 caches"));
}

#[test]
fn on_a_terminal_only_yes_confirms() {
    for (answer, code) in [
        ("n\n", 2),
        ("\n", 2),
        ("yess\n", 2),
        ("y\n", 0),
        ("YES\n", 0),
    ] {
        let root = root();
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal)
            .and_then(|()| unlockpt(&terminal))
            .unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let name = name.to_str().unwrap().to_owned();
        let mut options = fs::OpenOptions::new();
        let side = options.read(true).write(true).open(name).unwrap();
        let mut command = command(&["clear", ".", &hash(1)[..8]]);
        let copy = side.try_clone().unwrap();
        command
            .current_dir(root.path())
            .stdin(Stdio::from(OwnedFd::from(copy)));
        command
            .stderr(Stdio::from(OwnedFd::from(side)))
            .stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        drop(command); // closes our copies of the terminal's other side
        let mut screen = fs::File::from(terminal);
        let (mut asked, mut piece) = (Vec::new(), [0; 256]);
        while !text(&asked).contains("[y/N]") {
            let read = screen.read(&mut piece).unwrap();
            asked.extend(&piece[..read]);
        }
        assert!(text(&asked).contains("1,797 rows"), "{}", text(&asked));
        screen.write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{answer:?}");
        assert_eq!(root.path().join(hash(1)).exists(), code != 0, "{answer:?}");
    }
}
