package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/weirmesh/weir/capture/cni"
)

// Files are what the agent writes on the node. Its methods are called one at a time.
type Files struct {
	Program string // the plugin, as a file
	// Net, Bin and Run are folders of the host, as they are mounted here: network
	// configurations, plugins, and what need not survive the host.
	Net, Bin, Run string
	// HostRun is Run as the host sees it.
	HostRun string
	// Conf is the network configuration to extend; "": the one that is in use.
	Conf    string
	Exclude []string

	program fs.FileInfo // the plugin as it was found good
}

const (
	kubeconfigName = "kubeconfig"
	socketName     = "agent.sock"
	// saved is behind the name of a configuration of one plugin while a list stands for it.
	saved = ".weir-saved"
)

func (f *Files) socket() string { return filepath.Join(f.Run, socketName) }

// listen opens the socket for reports, in place of a predecessor's.
func listen(path string) (*net.UnixConn, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("taking reports of the plugin: %w", err)
	}
	return l, os.Chmod(path, 0o600)
}

// WriteAccess writes the plugin's way to the API server.
func (f *Files) WriteAccess(a cni.Access) (changed bool, err error) {
	data, err := a.Kubeconfig()
	if err != nil {
		return false, err
	}
	return replace(filepath.Join(f.Run, kubeconfigName), bytes.NewReader(data), 0o600)
}

// WriteProgram writes the plugin itself. Its megabytes are compared when something about
// the file has changed.
func (f *Files) WriteProgram() (changed bool, err error) {
	path := filepath.Join(f.Bin, cni.Type)
	is, err := os.Stat(path)
	if err == nil && f.program != nil && os.SameFile(is, f.program) && is.Size() == f.program.Size() && is.ModTime().Equal(f.program.ModTime()) && is.Mode() == f.program.Mode() {
		return false, nil
	}
	program, err := os.Open(f.Program)
	if err != nil {
		return false, err
	}
	defer func() { _ = program.Close() }()
	if changed, err = replace(path, program, 0o755); err != nil {
		return changed, err
	}
	f.program, err = os.Stat(path)
	return changed, err
}

// WriteConf puts the plugin into the network configuration in use; name is its file.
func (f *Files) WriteConf() (name string, changed bool, err error) {
	name = f.Conf
	if name == "" {
		if name, _, err = cni.Primary(os.DirFS(f.Net)); err != nil {
			return "", false, err
		}
	}
	path := filepath.Join(f.Net, name)
	conf, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return name, false, cni.ErrNoNetwork
	}
	if err != nil {
		return name, false, err
	}
	if err := f.found(conf); err != nil {
		return name, false, fmt.Errorf("%s: %w", name, err)
	}
	next, err := cni.Extend(conf, cni.Entry(filepath.Join(f.HostRun, kubeconfigName), filepath.Join(f.HostRun, socketName), f.Exclude))
	if err != nil {
		return name, false, fmt.Errorf("%s: %w", name, err)
	}
	if filepath.Ext(name) == ".conflist" {
		if same(conf, next) {
			return name, false, nil
		}
		changed, err = replace(path, bytes.NewReader(next), 0o644)
		return name, changed, err
	}
	// Runtimes read lists from a .conflist only. It comes behind by name: it counts at the
	// moment at which the other is renamed.
	list := strings.TrimSuffix(path, filepath.Ext(path)) + ".conflist"
	if _, err := replace(list, bytes.NewReader(next), 0o644); err != nil {
		return name, false, err
	}
	return filepath.Base(list), true, os.Rename(path, path+saved)
}

// found makes sure that plugins are looked for where ours is: a configuration that names
// one which is not there keeps every pod of the node from starting.
func (f *Files) found(conf []byte) error {
	types, err := cni.Plugins(conf)
	if err != nil {
		return err
	}
	for _, t := range types {
		if _, err := os.Stat(filepath.Join(f.Bin, filepath.Base(t))); err != nil {
			return fmt.Errorf("its plugin %q is not in the folder for plugins, so that runtimes would not find ours there: set cni.cniBinDir to the folder of the nodes that has it", t)
		}
	}
	return nil
}

// same reports whether two configurations say the same, however they are written: there may
// be others who put theirs right.
func same(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// Remove takes away all that was written, the configuration first: nothing may name a
// program that is not there.
func (f *Files) Remove() error {
	entries, err := os.ReadDir(f.Net)
	if err != nil {
		return err
	}
	var errs []error
	restored := map[string]bool{}
	for _, e := range entries {
		if was, ok := strings.CutSuffix(e.Name(), saved); ok {
			errs = append(errs, os.Rename(filepath.Join(f.Net, e.Name()), filepath.Join(f.Net, was)))
			restored[strings.TrimSuffix(was, filepath.Ext(was))+".conflist"] = true
		}
	}
	for _, e := range entries {
		path := filepath.Join(f.Net, e.Name())
		if filepath.Ext(path) != ".conflist" {
			continue
		}
		if restored[e.Name()] {
			errs = append(errs, os.Remove(path))
			continue
		}
		conf, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		rest, found, err := cni.Without(conf)
		if err != nil || !found {
			continue // nobody's, or another's
		}
		_, err = replace(path, bytes.NewReader(rest), 0o644)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".conflist" {
			sweep(filepath.Join(f.Net, e.Name()), 0)
		}
	}
	for _, path := range []string{filepath.Join(f.Bin, cni.Type), filepath.Join(f.Run, kubeconfigName), f.socket()} {
		sweep(path, 0)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// unfinished is in the names of files that are being written.
const unfinished = ".weir-new-"

// sweep takes away what agents that were killed had begun to write in a file's place, if it is older than that: megabytes of the plugin.
// What cannot be taken away does no harm.
func sweep(path string, older time.Duration) {
	all, _ := filepath.Glob(path + unfinished + "*") // the pattern is ours
	for _, name := range all {
		if i, err := os.Stat(name); err == nil && time.Since(i.ModTime()) >= older {
			_ = os.Remove(name)
		}
	}
}

// replace writes a file at once, so that nobody reads or runs half of it, unless it is as
// it should be. What it should be is read once or twice, piece by piece: of the plugin that is megabytes.
func replace(path string, data io.ReadSeeker, mode fs.FileMode) (changed bool, err error) {
	if i, err := os.Stat(path); err == nil && i.Mode().Perm() == mode {
		if equal, err := equals(path, data); err != nil || equal {
			return false, err
		}
		if _, err := data.Seek(0, io.SeekStart); err != nil {
			return false, err
		}
	}
	sweep(path, time.Minute)
	t, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+unfinished+"*") // no name that a runtime reads
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(t.Name())
		}
	}()
	if _, err = io.Copy(t, data); err == nil {
		err = t.Chmod(mode)
	}
	if err == nil {
		err = t.Sync() // a node may lose its power between this and the rename
	}
	if e := t.Close(); err == nil {
		err = e
	}
	if err != nil {
		return false, err
	}
	return true, os.Rename(t.Name(), path)
}

// equals reports whether a file that can be read has the same bytes. The error is that of data.
func equals(path string, data io.Reader) (bool, error) {
	old, err := os.Open(path)
	if err != nil {
		return false, nil // it is replaced
	}
	defer func() { _ = old.Close() }()
	var a, b [32 << 10]byte
	for {
		n, err := io.ReadFull(data, a[:])
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return false, err
		}
		m, _ := io.ReadFull(old, b[:])
		if m != n || !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
		if end {
			return true, nil
		}
	}
}
