"""What an examination finds: one sentence each, and how to mend what is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Grade(Enum):
    """`FAIL` is wrong; `WARN` works and should be looked at; `OK` is as it should be."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    grade: Grade
    subject: str
    text: str
    mend: str = ""

    def row(self) -> dict[str, object]:
        return {
            "grade": self.grade.value,
            "subject": self.subject,
            "found": self.text,
            "mend": self.mend,
        }


def ok(subject: str, text: str) -> Finding:
    return Finding(Grade.OK, subject, text)


def warn(subject: str, text: str, mend: str) -> Finding:
    return Finding(Grade.WARN, subject, text, mend)


def fail(subject: str, text: str, mend: str) -> Finding:
    return Finding(Grade.FAIL, subject, text, mend)


def failed(findings: Iterable[Finding]) -> bool:
    return any(finding.grade is Grade.FAIL for finding in findings)
