//! Nearest texts to a query.

use tch::Tensor;

/// The places of the `count` embeddings (`[N, 384]`) nearest to a query (`[1, 384]`), with cosines. All
/// embeddings have length one.
pub(crate) fn nearest(query: &Tensor, embeddings: &Tensor, count: i64) -> Vec<(usize, f64)> {
    let cosines = embeddings.matmul(&query.view([-1]));
    let count = count.min(cosines.size()[0]);
    let (cosines, places) = cosines.topk(count, 0, true, true);
    (0..count)
        .map(|rank| {
            let place = places.int64_value(&[rank]) as usize;
            (place, cosines.double_value(&[rank]))
        })
        .collect()
}
