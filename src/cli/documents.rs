//! What packages install beside the program: completions for shells, and the
//! manual page. Both are made from the options as they are.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::args::{Args, EXAMPLES};
use crate::guide;

/// The script that makes `shell` complete the words of this program.
pub(super) fn completions(shell: Shell) -> String {
    let name = called();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), name, &mut script);
    String::from_utf8(script).expect("options have names in UTF-8")
}

/// The page for man(1).
pub(super) fn manual_page() -> String {
    let name = called();
    let mut command = Args::command().name(name).bin_name(name);
    command.build();
    let man = Man::new(command.clone()).manual("User Commands");
    let mut page = Vec::new();
    let written = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page))
        .and_then(|()| own_sections(&command).to_writer(&mut page));
    written.expect("memory takes what is written to it");
    String::from_utf8(page).expect("options and their help are UTF-8")
}

/// The sections that the generator has none for, or refers to pages that do not exist.
fn own_sections(command: &Command) -> Roff {
    let name = command.get_name();
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let mut usage = vec![bold(name), roman(" "), bold(verb.get_name())];
        let arguments = verb.get_arguments().filter(|argument| !argument.is_hide_set());
        for argument in
            arguments.filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        {
            let shown = argument.to_string();
            let shown = if argument.is_required_set() { shown } else { format!("[{shown}]") };
            usage.extend([roman(" "), italic(shown.replace("[[", "[").replace("]]", "]"))]);
        }
        roff.control("TP", []);
        roff.text(usage);
        roff.text([roman(verb.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in [
        ("0", "Done."),
        ("1", "Failed while running, or connections were cut at the end."),
        ("2", "The command line or config cannot be meant; nothing was opened."),
    ] {
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
    roff.control("SH", ["EXAMPLES"]);
    for line in EXAMPLES.lines().filter_map(|line| line.strip_prefix("  ")) {
        let (example, meaning) = line.split_once("  ").unwrap_or((line, ""));
        roff.control("TP", []);
        roff.text([bold(example.trim().replacen("node", name, 1))]);
        roff.text([roman(meaning.trim())]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("The pages of the manual that the program itself prints:")]);
    for page in guide::PAGES {
        roff.control("TP", []);
        roff.text([bold(format!("{name} help {}", page.topic))]);
        roff.text([roman(page.about)]);
    }
    roff
}

/// The name the program was called by: packages install it as `signal-node`.
fn called() -> &'static str {
    let typed = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&typed).file_name();
    if name.is_some_and(|name| name == "signal-node") { "signal-node" } else { "node" }
}
