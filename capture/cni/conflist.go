package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

// list is a network configuration list; what is not named stays as it is.
type list struct {
	top     map[string]json.RawMessage
	plugins []json.RawMessage
	single  bool // it was a configuration of one plugin
}

// read reads a list, or a configuration of one plugin, which becomes one.
func read(conf []byte) (*list, error) {
	l := &list{}
	if err := json.Unmarshal(conf, &l.top); err != nil {
		return nil, err
	}
	var name string
	if err := json.Unmarshal(l.top["name"], &name); err != nil || name == "" {
		return nil, errors.New("it has no name")
	}
	if _, l.single = l.top["type"]; l.single {
		l.plugins = []json.RawMessage{bytes.Clone(conf)}
		top := map[string]json.RawMessage{}
		for _, k := range []string{"cniVersion", "name"} {
			if v, ok := l.top[k]; ok {
				top[k] = v
			}
		}
		l.top = top
	} else if err := json.Unmarshal(l.top["plugins"], &l.plugins); err != nil {
		return nil, fmt.Errorf("it has neither a type nor plugins: %w", err)
	}
	if len(l.plugins) == 0 {
		return nil, errors.New("it has no plugins")
	}
	return l, nil
}

func (l *list) write() ([]byte, error) {
	plugins, err := json.Marshal(l.plugins)
	if err != nil {
		return nil, err
	}
	l.top["plugins"] = plugins
	out, err := json.MarshalIndent(l.top, "", "  ")
	return append(out, '\n'), err
}

// dropOurs takes the plugin's own entries away, and reports whether there were any.
func (l *list) dropOurs() bool {
	n := len(l.plugins)
	l.plugins = slices.DeleteFunc(l.plugins, func(p json.RawMessage) bool {
		var t struct{ Type string }
		return json.Unmarshal(p, &t) == nil && t.Type == Type
	})
	return len(l.plugins) < n
}

// Extend puts entry behind the plugins of a network configuration, instead of an earlier
// entry of ours. A configuration of one plugin becomes a list.
func Extend(conf []byte, entry map[string]any) ([]byte, error) {
	l, err := read(conf)
	if err != nil {
		return nil, err
	}
	e, err := json.Marshal(entry)
	if err != nil {
		return nil, err
	}
	l.dropOurs()
	if len(l.plugins) == 0 {
		return nil, errors.New("there is no plugin in it but " + Type)
	}
	l.plugins = append(l.plugins, e)
	return l.write()
}

// Without takes our entry out of a network configuration; found is false if it has none.
func Without(conf []byte) (rest []byte, found bool, err error) {
	l, err := read(conf)
	if err != nil {
		return nil, false, err
	}
	if !l.dropOurs() {
		return conf, false, nil
	}
	rest, err = l.write()
	return rest, true, err
}

// Plugins are the types of the plugins of a network configuration, without ours.
func Plugins(conf []byte) (types []string, err error) {
	l, err := read(conf)
	if err != nil {
		return nil, err
	}
	l.dropOurs()
	for _, p := range l.plugins {
		var t struct{ Type string }
		if err := json.Unmarshal(p, &t); err != nil {
			return nil, err
		}
		types = append(types, t.Type)
	}
	return types, nil
}

// ErrNoNetwork says that there is no network configuration (yet).
var ErrNoNetwork = errors.New("there is no network configuration yet: the plugin that makes the pods' network writes it")

// Primary finds the network configuration that container runtimes use, as they do: the
// first by name that can be read. Why others before it cannot is told, too.
func Primary(dir fs.FS) (name string, skipped []error, err error) {
	entries, err := fs.ReadDir(dir, ".") // sorted
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".conf", ".conflist", ".json"}, path.Ext(e.Name())) {
			continue
		}
		var l *list
		conf, err := fs.ReadFile(dir, e.Name())
		if err == nil {
			l, err = read(conf)
		}
		if err == nil && l.single == (path.Ext(e.Name()) == ".conflist") {
			err = errors.New("a list of plugins is read from a .conflist only, and one plugin from other files")
		}
		if err == nil {
			return e.Name(), skipped, nil
		}
		skipped = append(skipped, fmt.Errorf("%s: %w", e.Name(), err))
	}
	return "", skipped, ErrNoNetwork
}
