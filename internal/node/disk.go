package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// disk makes every change the node makes to its state directory.
type disk struct {
	// point, when set, is called before and after each change. Tests stop
	// the node there, as a crash would.
	point func(name string)
}

func (d disk) at(name string) {
	if d.point != nil {
		d.point(name)
	}
}

// write replaces a file so that after a crash either the old or the new
// content is there, whole.
func (d disk) write(path string, data []byte) (err error) {
	name := filepath.Base(path)
	d.at("before create " + name)
	tmp := path + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	d.at("after create " + name)
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return d.rename(tmp, path)
}

func (d disk) rename(from, to string) error {
	d.at("before rename " + filepath.Base(to))
	if err := os.Rename(from, to); err != nil {
		return err
	}
	d.at("after rename " + filepath.Base(to))
	return syncDir(filepath.Dir(to))
}

func (d disk) remove(path string) error {
	d.at("before remove " + filepath.Base(path))
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	d.at("after remove " + filepath.Base(path))
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// tmpSuffix marks files that are being written.
const tmpSuffix = ".tmp"

// sweep removes what a crash left half written in dir.
func (d disk) sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "*"+tmpSuffix))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := d.remove(path); err != nil {
			return err
		}
	}
	return nil
}
