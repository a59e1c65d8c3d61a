//! Made-up text, the same for the same seed.

const SYLLABLES: [&str; 24] = [
    "ka", "lo", "mi", "ren", "ta", "vo", "su", "ple", "dor", "ni", "fa", "gri", "hu", "jo", "sta", "wen", "xi", "ya",
    "zor", "bel", "cu", "der", "em", "or",
];
const VOCABULARY: u64 = 20_000;

/// Words with frequencies by Zipf's law (exponent 1, by inverting its integral), from a xorshift generator
/// (Marsaglia 2003).
pub struct Words(u64);

impl Words {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn sentence(&mut self, words: usize) -> String {
        (0..words).map(|_| self.word()).collect::<Vec<_>>().join(" ")
    }

    fn word(&mut self) -> String {
        let rank = (VOCABULARY as f64).powf(self.unit()) as u64;
        // A bijection of ranks to syllables, so that frequent words are not all alike.
        let mut n = rank.wrapping_mul(7_919) % VOCABULARY + VOCABULARY;
        let mut word = String::new();
        while n > 0 {
            word.push_str(SYLLABLES[(n % 24) as usize]);
            n /= 24;
        }
        word
    }

    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
