//! The table that is printed: durations, ratios and single figures.

use std::time::Instant;

use anyhow::Result;

/// Durations of single requests, in seconds, and the wall time of all of them.
#[derive(Default)]
pub struct Sample {
    pub seconds: Vec<f64>,
    pub wall: f64,
}

impl Sample {
    pub fn add(&mut self, other: Self) {
        self.seconds.extend(other.seconds);
        self.wall += other.wall;
    }

    pub fn quantile(&self, q: f64) -> f64 {
        quantile(&self.seconds, q)
    }

    pub fn rate(&self) -> f64 {
        self.seconds.len() as f64 / self.wall
    }
}

/// The value below which this part of all is; nearest rank.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

pub fn head() {
    println!("{:<82} {:>10} {:>10} {:>10}", "what", "p50", "p99", "rate");
}

pub fn row(what: &str, sample: &Sample) {
    let ms = |q| format!("{:.2} ms", sample.quantile(q) * 1e3);
    println!("{what:<82} {:>10} {:>10} {:>8.0}/s", ms(0.5), ms(0.99), sample.rate());
}

pub fn ratio(what: &str, ratio: f64) {
    println!("{what:<82} {ratio:>10.2}");
}

/// One figure with its unit, and what to know of it.
pub fn figure(what: &str, value: f64, unit: &str) {
    println!("{what:<82} {value:>10.1} {unit}");
}

pub async fn timed<F: Future<Output = Result<()>>>(count: usize, mut request: impl FnMut() -> F) -> Result<Sample> {
    let (mut sample, start) = (Sample::default(), Instant::now());
    for _ in 0..count {
        let began = Instant::now();
        request().await?;
        sample.seconds.push(began.elapsed().as_secs_f64());
    }
    sample.wall = start.elapsed().as_secs_f64();
    Ok(sample)
}
