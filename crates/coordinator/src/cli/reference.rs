//! docs/reference/coordinator.md is what `coordinator --help` says. To write it again: `TRIREME_WRITE_DOCS=1 cargo test -p coordinator reference`.

#[test]
fn the_reference_page_is_fresh() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/coordinator.md");
    let options = clap_markdown::MarkdownOptions::new().show_footer(false);
    let wanted = clap_markdown::help_markdown_custom::<super::Arguments>(&options);
    if std::env::var_os("TRIREME_WRITE_DOCS").is_some() {
        std::fs::write(&page, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(found == wanted, "{} is stale: TRIREME_WRITE_DOCS=1 cargo test -p coordinator reference", page.display());
}
