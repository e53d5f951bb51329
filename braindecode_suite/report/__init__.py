"""The report: a results folder in, one self-contained HTML file out (`subject.write_subject_report`, `group.write_group_report`)."""
