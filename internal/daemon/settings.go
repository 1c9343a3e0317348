package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"l3af/client"
	"l3af/internal/doc"
	"l3af/internal/near"
)

// Where things are when nobody says otherwise.
const (
	DefaultSocket   = client.DefaultSocket
	DefaultStateDir = "/var/lib/l3afd"
	DefaultBpffs    = "/sys/fs/bpf/l3af"
)

// settings are what flags and the configuration file say. The keys of the
// file are the names of the flags.
type settings struct {
	config    string
	socket    string
	listen    string // TCP address of the API; "" means none
	stateDir  string
	bpffs     string
	logFormat string
	version   bool
}

// fileKeys are the flags that the configuration file may set.
var fileKeys = []string{"socket", "listen", "state-dir", "bpffs", "log-format"}

const usage = `l3afd keeps the eBPF programs of this node as the applied state says.

usage: l3afd [flags]

  -config FILE      YAML file with any of the keys socket, listen, state-dir,
                    bpffs, log-format; flags win
  -socket PATH      unix socket of the API (default ` + DefaultSocket + `)
  -listen ADDR      TCP address of the API, read-only (default none)
  -state-dir DIR    where revisions and packages are kept (default ` + DefaultStateDir + `)
  -bpffs DIR        where programs and maps are pinned (default ` + DefaultBpffs + `)
  -log-format F     text or json (default text)
  -version          print the version and exit
`

// errUsage is a mistake on the command line.
type errUsage struct{ error }

func (e errUsage) Unwrap() error { return e.error }

// parse reads flags and the configuration file.
func parse(args []string) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("l3afd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&s.config, "config", "", "")
	fs.StringVar(&s.socket, "socket", DefaultSocket, "")
	fs.StringVar(&s.listen, "listen", "", "")
	fs.StringVar(&s.stateDir, "state-dir", DefaultStateDir, "")
	fs.StringVar(&s.bpffs, "bpffs", DefaultBpffs, "")
	fs.StringVar(&s.logFormat, "log-format", "text", "")
	fs.BoolVar(&s.version, "version", false, "")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return s, err
		}
		return s, errUsage{err}
	}
	if fs.NArg() > 0 {
		return s, errUsage{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	if s.config != "" {
		given := map[string]bool{}
		fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if err := readConfig(s.config, fs, given); err != nil {
			return s, fmt.Errorf("config %s: %w", s.config, err)
		}
	}
	if s.logFormat != "text" && s.logFormat != "json" {
		return s, errUsage{fmt.Errorf("log-format %q: must be text or json", s.logFormat)}
	}
	for name, p := range map[string]*string{"socket": &s.socket, "state-dir": &s.stateDir, "bpffs": &s.bpffs} {
		if *p == "" {
			return s, errUsage{fmt.Errorf("%s is empty", name)}
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return s, err
		}
		*p = abs
	}
	return s, nil
}

// readConfig sets the flags that the file names and the command line does not.
func readConfig(file string, flags *flag.FlagSet, given map[string]bool) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	tree, err := doc.Parse(text)
	if err != nil {
		return err
	}
	keys, ok := tree.(map[string]any)
	if !ok {
		return errors.New("must be keys and values")
	}
	var mistakes []error
	for key, v := range keys {
		text, isText := v.(string)
		switch {
		case !slices.Contains(fileKeys, key):
			err := fmt.Errorf("%s: unknown key", key)
			if hint := near.Hint(key, fileKeys); hint != "" {
				err = fmt.Errorf("%w (%s)", err, hint)
			}
			mistakes = append(mistakes, err)
		case !isText:
			mistakes = append(mistakes, fmt.Errorf("%s: must be text", key))
		case !given[key]:
			if err := flags.Set(key, text); err != nil {
				mistakes = append(mistakes, fmt.Errorf("%s: %w", key, err))
			}
		}
	}
	sort.Slice(mistakes, func(i, j int) bool { return strings.Compare(mistakes[i].Error(), mistakes[j].Error()) < 0 })
	return errors.Join(mistakes...)
}
