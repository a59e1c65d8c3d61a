//! Whether time tells a foreign id from one that never existed: a threshold is chosen on one half of the samples and
//! judged on the other.

/// How long an answer took.
#[derive(Clone, Copy)]
pub struct Sample {
    pub nanos: u64,
    pub foreign: bool,
}

/// The share of the samples that the best threshold judges rightly: 0.5 is a guess. Samples come in pairs, one of each
/// kind; every other pair is for choosing.
pub fn accuracy(samples: &[Sample]) -> f64 {
    let half =
        |odd: usize| -> Vec<Sample> { samples.chunks_exact(2).skip(odd).step_by(2).flatten().copied().collect() };
    let (mut training, judged) = (half(0), half(1));
    training.sort_by_key(|sample| sample.nanos);
    // `balance`: how many more foreign samples than others are at or below the threshold.
    let (mut balance, mut best, mut threshold) = (0_i64, 0_i64, 0);
    for sample in &training {
        balance += if sample.foreign { 1 } else { -1 };
        if balance.abs() > best.abs() {
            (best, threshold) = (balance, sample.nanos);
        }
    }
    let foreign_is_fast = best > 0;
    let right = judged.iter().filter(|sample| (sample.nanos <= threshold) == (sample.foreign == foreign_is_fast));
    right.count() as f64 / judged.len() as f64
}

/// What [`accuracy`] stays below where time tells nothing, judged by so many pairs, save for one time in 30,000.
///
/// The order within each pair is drawn, so a pair that is judged counts as one toss, however much its two times have to do
/// with each other: at most one right answer more than a guess has, or as likely one less. The share of heads among n tosses
/// is nearly normal, of mean 0.5 and variance 0.25 / n (de Moivre and Laplace; W. Feller, An Introduction to Probability
/// Theory and Its Applications, volume 1, chapter VII), and 3.2e-5 of it is more than four standard deviations above.
pub fn guessing(judged_pairs: usize) -> f64 {
    0.5 + 4.0 * (0.25 / judged_pairs as f64).sqrt()
}

#[test]
fn a_threshold_finds_what_is_slower_and_nothing_where_there_is_nothing() {
    // Times that spread over 0.9 ms, as real ones do.
    let mut state = 7_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % 900_000
    };
    let mut samples = |pairs: usize, slower: u64| -> Vec<Sample> {
        (0..pairs * 2)
            .map(|n| n % 2 == 0)
            .map(|foreign| Sample { nanos: draw() + if foreign { slower } else { 0 }, foreign })
            .collect()
    };
    assert!((accuracy(&samples(20_000, 0)) - 0.5).abs() < 0.01);
    assert!(accuracy(&samples(20_000, 100_000)) > 0.54, "a tenth of a millisecond is seen");
    let fast: Vec<Sample> = samples(20_000, 100_000).iter().map(|s| Sample { foreign: !s.foreign, ..*s }).collect();
    assert!(accuracy(&fast) > 0.54, "and so is being faster");

    // Few samples show only what is slow indeed.
    let few = guessing(50);
    assert!((0.78..0.79).contains(&few), "{few}");
    assert!((0..1_000).all(|_| accuracy(&samples(100, 0)) < few), "nothing is seen where there is nothing");
    assert!((0..1_000).all(|_| accuracy(&samples(100, 900_000)) > few), "as slow as times spread is seen");
}
