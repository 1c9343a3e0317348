package artifact

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"l3af/internal/near"
	"l3af/programs"
)

func builtinHint(name string) string {
	if slices.Contains(builtins(), path.Base(name)) {
		return fmt.Sprintf(", or builtin:%s", path.Base(name))
	}
	return ""
}

func builtins() []string {
	entries, _ := programs.FS.ReadDir(".")
	var names []string
	for _, e := range entries {
		if _, err := fs.Stat(programs.FS, path.Join(e.Name(), manifestName)); err == nil {
			names = append(names, e.Name())
		}
	}
	return names
}

func builtin(name string) (*Package, error) {
	if names := builtins(); !slices.Contains(names, name) {
		return nil, &missing{name, near.Hint(name, names), names}
	}
	dir, err := fs.Sub(programs.FS, name)
	if err != nil {
		return nil, err
	}
	return read(func(name string, limit int64) (file, error) {
		f, err := dir.Open(name)
		if err != nil {
			return file{}, cause(err)
		}
		defer f.Close()
		return all(f, limit)
	})
}

// missing is a builtin package that there is not.
type missing struct {
	name, hint string
	names      []string
}

func (e *missing) Error() string {
	s := fmt.Sprintf("there is no builtin package %q", clip(e.name))
	list := "the builtin packages are " + strings.Join(e.names, ", ")
	if strings.HasPrefix(e.hint, "did you mean") {
		return fmt.Sprintf("%s, %s (%s)", s, strings.TrimSuffix(e.hint, "?"), list)
	}
	return fmt.Sprintf("%s (%s)", s, list)
}

func (e *missing) Is(target error) bool { return target == fs.ErrNotExist }
