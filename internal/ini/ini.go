// Package ini reads INI files in the dialect of L3AF 2's configuration:
// sections of keys, %(other)s for the value of another key, ${NAME} for the
// environment.
package ini

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Entry is one key of a file.
type Entry struct {
	Section, Key, Value string
	Line                int // from 1
}

// defaults is the section whose keys every section can refer to.
const defaults = "DEFAULT"

const (
	maxDepth = 10      // of references in one another
	maxValue = 1 << 16 // bytes of one value
)

// Parse reads every key in order. A key is separated from its value by the
// first = or :, lines that begin with white space go on with the value before,
// and comments begin with # or ;, at the start of a line or after white space.
// A key that comes twice is there twice: L3AF takes the last. The error says
// every line that is wrong.
func Parse(data []byte) ([]Entry, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("the file is not UTF-8 text")
	}
	var entries []Entry
	var mistakes []error
	section := ""
	open := false // a value that the next line may go on with
	for i, line := range strings.Split(strings.TrimPrefix(string(data), "\ufeff"), "\n") {
		wrong := func(format string, args ...any) {
			mistakes = append(mistakes, fmt.Errorf("line %d: "+format, append([]any{i + 1}, args...)...))
		}
		text := strings.TrimSpace(withoutComment(line))
		indented := strings.TrimLeft(line, " \t") != line
		switch at := strings.IndexAny(text, "=:"); {
		case text == "":
		case text[0] == '[':
			name, ok := strings.CutSuffix(text[1:], "]")
			if section, open = strings.TrimSpace(name), false; !ok || section == "" {
				wrong("a section is written [name], not %.80q", text)
			}
		case indented && open:
			last := &entries[len(entries)-1]
			last.Value = strings.TrimSpace(last.Value + "\n" + text)
		case at <= 0:
			wrong("neither a section nor a key with a value: %.80q", text)
		case section == "":
			wrong("%.80q comes before the first section", strings.TrimSpace(text[:at]))
		default:
			entries = append(entries, Entry{section, strings.TrimSpace(text[:at]), strings.TrimSpace(text[at+1:]), i + 1})
			open = true
		}
	}
	values := make(map[[2]string]string, len(entries))
	for _, e := range entries {
		values[[2]string{e.Section, e.Key}] = e.Value
	}
	for i := range entries {
		e := &entries[i]
		value, err := resolve(values, e.Section, e.Value, 0)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("line %d: %.80s: %w", e.Line, e.Key, err))
			continue
		}
		e.Value = value
	}
	return entries, errors.Join(mistakes...)
}

// withoutComment cuts a comment off.
func withoutComment(line string) string {
	for i := range len(line) {
		if (line[i] == '#' || line[i] == ';') && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			return line[:i]
		}
	}
	return line
}

var reference = regexp.MustCompile(`%\(([A-Za-z0-9_.-]+)\)s|\$\{([A-Za-z0-9_.-]+)\}`)

// resolve puts values in the place of references. What the environment holds
// is taken as it is.
func resolve(values map[[2]string]string, section, value string, depth int) (string, error) {
	var out strings.Builder
	end := 0
	for _, m := range reference.FindAllStringSubmatchIndex(value, -1) {
		out.WriteString(value[end:m[0]])
		end = m[1]
		if m[2] < 0 {
			out.WriteString(os.Getenv(value[m[4]:m[5]]))
			continue
		}
		name := value[m[2]:m[3]]
		other, ok := values[[2]string{section, name}]
		if !ok {
			if other, ok = values[[2]string{defaults, name}]; !ok {
				return "", fmt.Errorf("%%(%.80s)s: there is no such key in [%.80s] or [%s]", name, section, defaults)
			}
		}
		if depth == maxDepth {
			return "", fmt.Errorf("%%(%.80s)s: references go round in a circle", name)
		}
		other, err := resolve(values, section, other, depth+1)
		if err != nil {
			return "", err
		}
		if out.WriteString(other); out.Len() > maxValue {
			return "", fmt.Errorf("the value is longer than %d bytes", maxValue)
		}
	}
	out.WriteString(value[end:])
	return out.String(), nil
}
