package transfer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
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

// readAuth finds the repository in a file, or what is above it, or the registry. The
// library's own search takes any namespace of a registry for the registry, does not know
// Docker Hub by the name that podman login writes, and reads $DOCKER_AUTH_CONFIG besides
// whatever file it was given. nil: the file knows nothing of it.
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
	hosts := hostKeys(repo.Registry)
	for _, host := range hosts {
		if helper := parsed.CredentialHelpers[host]; helper != "" {
			if found, err := askHelper(parsed, helper, host); found != nil || err != nil {
				return found, err
			}
		}
	}
	for _, key := range append(namespaceKeys(hosts[0], repo.RepositoryStr()), hosts...) {
		if found := known(parsed.AuthConfigs[key]); found != nil {
			return found, nil
		}
	}
	for key, auth := range parsed.AuthConfigs { // https://HOST/v1/, as Docker wrote it once
		if found := known(auth); strings.Contains(key, "://") && credentials.ConvertToHostname(key) == hosts[0] && found != nil {
			return found, nil
		}
	}
	if helper := parsed.CredentialsStore; helper != "" {
		return askHelper(parsed, helper, hosts[len(hosts)-1])
	}
	return nil, nil
}

// askHelper runs docker-credential-HELPER.
func askHelper(file *configfile.ConfigFile, helper, host string) (authn.Authenticator, error) {
	got, err := credentials.NewNativeStore(file, helper).Get(host)
	if err != nil {
		return nil, err
	}
	return known(got), nil
}

// known is nil for an entry without credentials: Docker leaves one where a helper has them.
func known(got types.AuthConfig) authn.Authenticator {
	auth := authn.AuthConfig{Username: got.Username, Password: got.Password, IdentityToken: got.IdentityToken, RegistryToken: got.RegistryToken}
	if auth == (authn.AuthConfig{}) {
		return nil
	}
	return authn.FromConfig(auth)
}

// hostKeys are the names of a registry in auth files: the last is Docker's.
func hostKeys(reg name.Registry) []string {
	if reg.RegistryStr() == name.DefaultRegistry {
		return []string{"docker.io", name.DefaultRegistry, authn.DefaultAuthKey}
	}
	return []string{reg.RegistryStr()}
}

// namespaceKeys are those of a repository and of what is above it, the nearest first.
func namespaceKeys(host, path string) (keys []string) {
	for path != "" {
		keys = append(keys, host+"/"+path)
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
	}
	return keys
}
