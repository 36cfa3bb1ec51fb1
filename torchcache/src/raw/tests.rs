//! Tensors as bytes, and what a glance at one shows.

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
