package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"l3af/internal/api"
	"l3af/internal/artifact"
)

// Another version of l3afd comes in an archive, as L3AF 2 lays it out: the files
// l3afd and, if it has one, l3afd.cfg, wherever in it. It is unpacked to
// RESTART-DIR/VERSION, and RESTART-DIR/latest leads to the version that works. A
// configuration file that came with a version is in force with it, wherever the
// one before was.

const (
	binaryName = "l3afd"
	configName = "l3afd.cfg"
)

var versionText = regexp.MustCompile(`^v([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})$`)

// restartWith has another version take the place of this daemon. When it does
// not, this one goes on, and what is found under latest is as it was.
func (d *daemon) restartWith(ctx context.Context, version string) error {
	refused := func(status int, code string, err error) error {
		return &api.Problem{Status: status, Code: code, Detail: fmt.Sprintf("failed to getNewVersion: %v", err)}
	}
	if err := checkVersion(version, d.restartLimit); err != nil {
		return refused(http.StatusUnprocessableEntity, api.CodeInvalid, err)
	}
	files, err := d.remote().Archive(ctx, strings.TrimSuffix(d.restartRepo, "/")+"/"+version+"/"+binaryName+".tar.gz")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refused(http.StatusNotFound, api.CodeNotFound, err)
	case artifact.Unavailable(err):
		return refused(http.StatusServiceUnavailable, api.CodeUnavailable, err)
	case err != nil:
		return refused(http.StatusUnprocessableEntity, api.CodeInvalid, err)
	}
	dir := filepath.Join(d.restartDir, version)
	names, undo, err := install(dir, files)
	if err != nil {
		return refused(http.StatusUnprocessableEntity, api.CodeInvalid, err)
	}
	latest := filepath.Join(d.restartDir, "latest")
	to := program{filepath.Join(dir, binaryName), d.self.Args}
	again := program{filepath.Join(latest, binaryName), d.self.Args}
	if slices.Contains(names, configName) {
		to.Args = withConfig(to.Args, filepath.Join(dir, configName))
		again.Args = withConfig(again.Args, filepath.Join(latest, configName))
	}
	if err := d.Handover(to, again); err != nil {
		if err := undo(); err != nil {
			d.log.Error("the next start may be of another version", "error", err)
		}
		return &api.Problem{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Detail: err.Error(), Hint: "this l3afd goes on as before; its log says more"}
	}
	// The new one works: what is found under latest from now on is for whoever
	// starts it the next time.
	for _, name := range names {
		if err := lead(filepath.Join(latest, name), filepath.Join(dir, name)); err != nil {
			d.log.Error("the next start may be of another version", "error", err)
		}
	}
	return nil
}

// checkVersion wants vX.Y.Z, no number above the limit.
func checkVersion(version string, limit int) error {
	m := versionText.FindStringSubmatch(version)
	if m == nil {
		return fmt.Errorf("version %.80q: want vX.Y.Z", version)
	}
	for _, digits := range m[1:] {
		if n, err := strconv.Atoi(digits); err != nil || n > limit {
			return fmt.Errorf("version %s: no number may be above %d (restart-version-limit)", version, limit)
		}
	}
	return nil
}

// install writes the files of a version that are needed to a directory, in the
// place of what is there, and returns their names. undo puts back what was there,
// which latest may lead to.
func install(dir string, files map[string][]byte) (names []string, undo func() error, err error) {
	found := map[string][]byte{}
	for name, text := range files {
		base := path.Base(name)
		if base != binaryName && base != configName {
			continue
		}
		if _, twice := found[base]; twice {
			return nil, nil, fmt.Errorf("the archive has %s twice", base)
		}
		found[base] = text
		names = append(names, base)
	}
	if found[binaryName] == nil {
		return nil, nil, fmt.Errorf("the archive has no file %s", binaryName)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	slices.Sort(names)
	var undos []func() error
	undo = func() error {
		var errs []error
		for _, u := range undos {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	for _, name := range names {
		mode, file := os.FileMode(0o644), filepath.Join(dir, name)
		if name == binaryName {
			mode = 0o755
		}
		was, err := os.ReadFile(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			undos = append(undos, func() error { return os.Remove(file) })
		case err != nil:
			return nil, nil, errors.Join(err, undo())
		default:
			undos = append(undos, func() error { return replaceFile(file, was, mode) })
		}
		if err := replaceFile(file, found[name], mode); err != nil {
			return nil, nil, errors.Join(err, undo())
		}
	}
	return names, undo, nil
}

// replaceFile writes a file aside and moves it to its place. What runs from
// there runs on.
func replaceFile(name string, text []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// lead makes a symbolic link lead to a file, in one step.
func lead(link, to string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	aside := link + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(to, aside); err != nil {
		return err
	}
	return os.Rename(aside, link)
}

// withConfig makes arguments name this configuration file instead of theirs.
func withConfig(args []string, file string) []string {
	changed := []string{"-config", file}
	flags := new(settings).flags()
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(args[i], "-"), "-"), "=")
		words := 1
		if f := flags.Lookup(name); f != nil && !joined && kindOf(f) != "true or false" {
			words = min(2, len(args)-i)
		}
		if name != "config" {
			changed = append(changed, args[i:i+words]...)
		}
		i += words - 1
	}
	return changed
}

// remote says how files come from other machines.
func (s *settings) remote() artifact.Remote {
	return artifact.Remote{CA: s.packageCA, Certificate: s.packageCert, Key: s.packageKey, Timeout: s.packageTimeout}
}
