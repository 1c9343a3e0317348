package daemon

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"l3af/internal/doc"
)

// migrate is l3afd config migrate: it prints the YAML of an INI file, with
// what an operator should know as comments above it.
func migrate(args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 || args[0] != "migrate" || len(args) > 2 {
		return errUsage{errors.New("config: the only command is: l3afd config migrate [FILE]")}
	}
	name, text, err := "standard input", []byte(nil), error(nil)
	if len(args) == 2 && args[1] != "-" {
		name = args[1]
		text, err = os.ReadFile(name)
	} else {
		text, err = io.ReadAll(in)
	}
	if err != nil {
		return fmt.Errorf("config migrate: %w", err)
	}
	if !isINI(text) {
		return fmt.Errorf("config migrate: %s has no sections: it is not a configuration file of L3AF 2", name)
	}
	keys, notes, err := fromINI(text)
	if err == nil {
		err = new(settings).checkKeys(keys)
	}
	if err != nil {
		return fmt.Errorf("config migrate: %s: %w", name, err)
	}
	for _, n := range notes {
		fmt.Fprintf(out, "# %s\n", strings.ReplaceAll(n, "\n", "\n# "))
	}
	// In the order of the help, in which they make sense.
	order := func(key string) int { return strings.Index(usage, "  -"+key+" ") }
	sorted := slices.SortedFunc(maps.Keys(keys), func(a, b string) int { return order(a) - order(b) })
	for _, key := range sorted {
		line, err := doc.YAML(map[string]any{key: keys[key]})
		if err != nil {
			return err
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// checkKeys checks what a file says as if the daemon started with it.
func (s *settings) checkKeys(keys map[string]any) error {
	if err := set(s.flags(), keys, nil); err != nil {
		return err
	}
	return s.check()
}
