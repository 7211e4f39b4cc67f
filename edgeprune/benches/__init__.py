"""Where finished graphs run: on this machine, on a board reached by SSH, or nowhere, where times are estimates."""
