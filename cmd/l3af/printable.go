package main

import (
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable writes text that has words of others in it: names of processes and
// files, lines of source, what programs print. What a terminal would obey, and what
// is no UTF-8, is written as Go does in strings: \x1b.
type printable struct{ io.Writer }

func (p printable) Write(b []byte) (int, error) {
	if text := string(b); !safe(text, "\n\t") {
		if _, err := io.WriteString(p.Writer, escaped(text, "\n\t")); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	return p.Writer.Write(b)
}

// word is a name of others' that must stay within its line and column.
func word(s string) string {
	if safe(s, "") {
		return s
	}
	return escaped(s, "")
}

// safe says that a text has nothing but what is printed as it is, and keep.
func safe(s, keep string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < ' ' || c >= 0x7f) && strings.IndexByte(keep, c) < 0 {
			return escaped(s[i:], keep) == s[i:]
		}
	}
	return true
}

func escaped(s, keep string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || !unicode.IsPrint(r) && !strings.ContainsRune(keep, r) {
			q := strconv.Quote(s[:n])
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}
