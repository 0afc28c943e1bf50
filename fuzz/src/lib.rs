//! What the targets of a site's parsers have in common: a small site, published when the first input comes.

pub mod seals;

pub use libatomos::testing::laws::{Laws, Parser};
pub use libfuzzer_sys;

/// Makes a target of a parser: gives it every input and fails where `libatomos::testing::laws` sees a law broken.
#[macro_export]
macro_rules! laws {
    ($parser:ident) => {
        static LAWS: std::sync::LazyLock<$crate::Laws> = std::sync::LazyLock::new($crate::Laws::new);

        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| LAWS.check($crate::Parser::$parser, bytes));
    };
}
