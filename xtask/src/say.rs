//! Output for people, on standard output.
//!
//! Invariant: a reader that has gone (`cargo xtask setup | head -2`) is no reason to panic or to leave a thing
//! half done; the work goes on unseen, and the exit code tells how it ended.

/// `println!` that does not mind when nobody reads any more.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        // The reader has gone; see the module's first lines.
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}
pub(crate) use say;
