//! Texts whose every word is new.

use crate::ground::Dice;

/// As long as a memory may be.
pub const LONGEST: usize = 10_000;

/// The ideographs of Unicode 1.0.1, of which each pair is a word of its own to a search.
const IDEOGRAPHS: std::ops::Range<u32> = 0x4E00..0x9FA6;
const LETTERS: usize = 8;

/// Words of letters.
pub fn words(dice: &mut Dice, characters: usize) -> String {
    let mut text = String::with_capacity(characters);
    while text.len() + LETTERS < characters {
        let word = (0..LETTERS).map(|_| char::from(b'a' + dice.roll(26) as u8));
        text.extend(word.chain([' ']));
    }
    text
}

/// Ideographs.
pub fn han(dice: &mut Dice, characters: usize) -> String {
    let sides = IDEOGRAPHS.len();
    (0..characters).filter_map(|_| char::from_u32(IDEOGRAPHS.start + dice.roll(sides) as u32)).collect()
}
