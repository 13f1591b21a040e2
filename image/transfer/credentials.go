package transfer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// login is who we are to a registry, and where that stood; from is "" for nobody.
type login struct {
	authn.Authenticator
	from string
}

// login looks where skopeo and docker look, and takes the first file that knows the
// registry. The library's own keychain stops at the first file that exists.
func (o *Options) login(repo name.Repository) (login, error) {
	if o.Credentials != "" {
		user, password, ok := strings.Cut(o.Credentials, ":")
		if !ok || user == "" {
			return login{}, errors.New("--creds: want USER:PASSWORD")
		}
		return login{&authn.Basic{Username: user, Password: password}, "--creds"}, nil
	}
	for _, file := range authFiles() {
		found, err := readAuth(file, repo)
		if err != nil {
			return login{}, fmt.Errorf("credentials in %s: %w", file, err)
		}
		if found != nil {
			return login{found, file}, nil
		}
	}
	return login{Authenticator: authn.Anonymous}, nil
}

// authFiles is containers-auth.json(5), then Docker's. Who names a file means only it.
func authFiles() (files []string) {
	if f := os.Getenv("REGISTRY_AUTH_FILE"); f != "" {
		return []string{f}
	}
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if runtimeDir != "" {
		files = append(files, filepath.Join(runtimeDir, "containers/auth.json"))
	} else {
		files = append(files, fmt.Sprintf("/run/containers/%d/auth.json", os.Getuid()))
	}
	home, _ := os.UserHomeDir()
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	} else if home != "" {
		files = append(files, filepath.Join(home, ".config/containers/auth.json"))
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home != "" {
		files = append(files, filepath.Join(home, ".docker/config.json"))
	}
	return files
}

// readAuth finds the repository in a file, or what is above it, or the registry;
// credential helpers are asked for the registry. nil: the file knows nothing of it.
func readAuth(file string, repo name.Repository) (authn.Authenticator, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	parsed, err := config.LoadFromReader(f)
	if err != nil {
		return nil, err
	}
	for _, key := range authKeys(repo) {
		// A helper is not for namespaces, and starting it costs.
		if strings.Contains(key, "/") && !strings.Contains(key, "://") {
			if _, ok := parsed.AuthConfigs[key]; !ok {
				continue
			}
		}
		got, err := parsed.GetAuthConfig(key)
		if err != nil {
			return nil, err
		}
		got.ServerAddress = "" // filled in with the key, found or not
		if got != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: got.Username, Password: got.Password, Auth: got.Auth,
				IdentityToken: got.IdentityToken, RegistryToken: got.RegistryToken,
			}), nil
		}
	}
	return nil, nil
}

// authKeys are the names under which a file may keep a repository's credentials.
func authKeys(repo name.Repository) (keys []string) {
	hosts := []string{repo.RegistryStr()}
	if repo.RegistryStr() == name.DefaultRegistry {
		hosts = []string{"docker.io", name.DefaultRegistry, authn.DefaultAuthKey}
	}
	for path := repo.RepositoryStr(); path != ""; {
		for _, host := range hosts[:1] {
			keys = append(keys, host+"/"+path)
		}
		cut := strings.LastIndexByte(path, '/')
		path = path[:max(cut, 0)]
	}
	return append(keys, hosts...)
}
