//! `popcache completions` and `popcache man`: documents made from the command line's definition.

use std::path::Path;

use clap::CommandFactory as _;

use super::{Arguments, Exit, fail, print};

pub(super) fn completions(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "popcache", &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(dir: Option<&Path>) -> Exit {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        return match clap_mangen::Man::new(Arguments::command()).render(&mut page) {
            Ok(()) => print(&String::from_utf8_lossy(&page)),
            Err(error) => fail(
                Exit::Failed,
                format_args!("cannot make the manual page: {error}"),
            ),
        };
    };
    match clap_mangen::generate_to(Arguments::command(), dir) {
        Ok(()) => Exit::Done,
        Err(error) => fail(
            Exit::Failed,
            format_args!("cannot write into {}: {error}", dir.display()),
        ),
    }
}
