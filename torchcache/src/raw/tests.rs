//! Tensors as bytes, what a glance at one shows, and rows on shelves.

use super::*;

fn glance(tensor: &Tensor) -> Glance<'_> {
    let mut glance = Glance::none();
    assert!(glance.at(tensor));
    glance
}

#[test]
fn bytes_are_those_of_the_elements() {
    let tensor = Tensor::from_slice(&[1i32, -1]);
    assert_eq!(view(&tensor).unwrap(), [1, 0, 0, 0, 255, 255, 255, 255]);
}

#[test]
fn written_bytes_become_elements() {
    let write = |bytes: &mut [u8]| bytes.copy_from_slice(&[0, 0, 0, 0, 7, 0, 0, 0]);
    let made = tensor(&[2], Kind::Int, write).unwrap();
    assert_eq!(Vec::<i32>::try_from(&made).unwrap(), [0, 7]);
}

#[test]
fn empty_tensors_have_no_bytes() {
    let none = tensor(&[0, 3], Kind::Float, |bytes| assert!(bytes.is_empty())).unwrap();
    assert_eq!(none.size(), [0, 3]);
    assert!(view(&none).unwrap().is_empty());
}

#[test]
fn strided_tensors_are_refused() {
    let tensor = Tensor::zeros([2, 3], tch::kind::FLOAT_CPU).tr();
    assert!(view(&tensor).is_err());
}

#[test]
fn a_glance_gives_the_bytes_of_contiguous_values_and_of_nothing_else() {
    let tensor = Tensor::from_slice(&[1i16, 2, 3, 4]).view([2, 2]);
    assert_eq!(glance(&tensor).bytes(), Some(view(&tensor).unwrap()));
    let second = tensor.narrow(0, 1, 1);
    assert_eq!(glance(&second).bytes(), Some([3, 0, 4, 0].as_slice()));
    assert_eq!(glance(&tensor.tr()).bytes(), None);
    assert_eq!(
        glance(&Tensor::zeros([0], tch::kind::FLOAT_CPU)).bytes(),
        None
    );
    let complex = Tensor::complex(&Tensor::from_slice(&[1f32]), &Tensor::from_slice(&[2f32]));
    assert!(glance(&complex).bytes().is_some());
    assert_eq!(glance(&complex.conj()).bytes(), None);
    assert_eq!(glance(&complex.conj().imag()).bytes(), None);
}

#[test]
fn a_glance_at_a_sparse_tensor_leaves_no_error_behind() {
    let sparse = Tensor::eye(3, tch::kind::FLOAT_CPU).to_sparse(None, None::<i64>, None);
    let glance = glance(&sparse);
    assert!(glance.bytes().is_none());
    assert!(
        Tensor::zeros([1], tch::kind::FLOAT_CPU)
            .f_add_scalar(1)
            .is_ok()
    );
}

#[test]
fn an_undefined_tensor_is_not_to_be_seen() {
    assert!(!Glance::none().at(&Tensor::new()));
}

#[test]
fn tensors_of_many_dimensions_are_glanced_at_whole() {
    let words = |tensor: &Tensor| glance(tensor).words().to_vec();
    let tensor = Tensor::zeros([1, 1, 1, 1, 1, 1, 1, 2, 3], tch::kind::FLOAT_CPU);
    assert_eq!(words(&tensor).len(), 4 + 2 * 9);
    assert_ne!(words(&tensor), words(&tensor.transpose(7, 8)));
    assert_eq!(glance(&tensor).bytes().map(<[u8]>::len), Some(24));
}

#[test]
fn a_full_row_is_read_until_it_is_emptied() {
    let shelf = Arc::new(Shelf::new(2, 3).unwrap());
    assert!(!Pins::default().add(&shelf, 0), "an empty slot has no row");
    assert!(shelf.fill(0, &[1, 2, 3]));
    assert!(
        !shelf.fill(0, &[4, 5, 6]),
        "a full slot is not filled again"
    );
    let mut pins = Pins::default();
    assert!(pins.add(&shelf, 0) && pins.add(&shelf, 0));
    assert!(!shelf.empty(0), "somebody reads it");
    assert_eq!(
        (pins.row(0), pins.row(1)),
        ([1, 2, 3].as_slice(), [1, 2, 3].as_slice())
    );
    drop(pins);
    assert!(shelf.empty(0) && shelf.fill(0, &[4, 5, 6]));
    let mut pins = Pins::default();
    assert!(pins.add(&shelf, 0));
    assert_eq!(pins.row(0), [4, 5, 6]);
}

#[test]
fn pinned_rows_outlive_what_made_them() {
    let shelf = Arc::new(Shelf::new(1, 1).unwrap());
    let mut pins = Pins::default();
    assert!(shelf.fill(0, &[7]) && pins.add(&shelf, 0));
    drop(shelf);
    assert_eq!(pins.row(0), [7]);
}

#[test]
fn rows_without_bytes_have_slots_as_well() {
    let shelf = Arc::new(Shelf::new(2, 0).unwrap());
    let mut pins = Pins::default();
    assert!(shelf.fill(1, &[]) && pins.add(&shelf, 1));
    assert!(pins.row(0).is_empty());
}

#[test]
fn what_no_address_space_can_hold_is_an_error() {
    assert!(Shelf::new(usize::MAX / 2, 3).is_err());
}

#[test]
fn no_reader_ever_sees_a_row_half_filled() {
    let shelf = Arc::new(Shelf::new(1, 4096).unwrap());
    let threads: Vec<_> = (0..4u8)
        .map(|thread| {
            let shelf = shelf.clone();
            std::thread::spawn(move || {
                let mut seen = 0;
                for round in 0..4000u16 {
                    shelf.empty(0);
                    shelf.fill(0, &[thread ^ round as u8; 4096]);
                    let mut pins = Pins::default();
                    if pins.add(&shelf, 0) {
                        let row = pins.row(0);
                        assert!(row.iter().all(|byte| *byte == row[0]));
                        seen += 1;
                    }
                }
                seen
            })
        })
        .collect();
    let seen: u32 = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    assert!(seen > 0);
}

#[test]
fn rows_that_get_their_memory_early_keep_what_they_hold() {
    let shelf = Arc::new(Shelf::new(1000, 5000).unwrap());
    assert!(shelf.fill(3, &[7; 5000]));
    shelf.populate(0..1000);
    shelf.populate(999..1000);
    shelf.populate(1000..1000);
    let mut pins = Pins::default();
    assert!(pins.add(&shelf, 3) && !pins.add(&shelf, 4));
    assert_eq!(pins.row(0), [7; 5000]);
}

#[cfg(target_os = "linux")]
#[test]
fn rows_get_their_memory_before_they_are_filled() {
    let shelf = Shelf::new(64, 1 << 20).unwrap();
    let resident = || -> usize {
        let begin = shelf.memory.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|it| it.split_once('-'));
            let address = |text| usize::from_str_radix(text, 16);
            if let Some((Ok(from), Ok(to))) = range.map(|(from, to)| (address(from), address(to))) {
                is_inside = (from..to).contains(&begin);
            } else if is_inside && let Some(size) = line.strip_prefix("Rss:") {
                return size.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        panic!("the system does not know the shelf");
    };
    let before = resident();
    shelf.populate(16..32);
    let populated = resident() - before;
    assert!((16 << 10..=20 << 10).contains(&populated), "{populated} kB");
}
